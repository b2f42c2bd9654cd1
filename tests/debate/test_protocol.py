"""The debate of method.md, "One iteration", steps 1 and 2: who reads what, and when, and who wins the vote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm
from hpcmaf.debate.consensus import agrees, consensus
from hpcmaf.debate.methods import Society
from hpcmaf.debate.protocol import Protocol, calls_per_problem, debate
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines import Request, Sampling
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import PromptSet
from tests.debate.scripted import ScriptedEngine
from tests.debate.scripted import debate as answered

SHOWN = "{% for answer in answers %}<{{ answer }}>{% endfor %}"
# Prompts in which every part can be told apart.
MARKS = PromptSet(
    templates={
        "first": "ask[{{ question }}]",
        "summarize": "sum[{{ question }}]" + SHOWN,
        "update": "upd[{{ question }}]({{ summary }})",
        "update_without_summary": "upd[{{ question }}]" + SHOWN,
    }
)
PROBLEM = Problem("p1", "What?", gold="GOLD")


def protocol(rounds: int = 2, summaries: bool = True) -> Protocol:
    return Protocol(rounds, summaries, MARKS, AnswerForm.NUMBER, Sampling(), seed=7, iteration=3)


def spoken(request: Request) -> str:
    """Name the speaker: its place in the debate, and a number to vote with."""
    _, round, kind, agent = request.key.split("/")
    return f"{kind}-{round}-{agent} is {10 * int(round[1:]) + int(agent)}"


def hold(agents: int, rounds: int, summaries: bool = True, order: int = 0) -> tuple[Transcript, ScriptedEngine]:
    engine = ScriptedEngine(spoken, order)
    return asyncio.run(debate(PROBLEM, Society.of(agents, ()), protocol(rounds, summaries), engine)), engine


@pytest.mark.parametrize("summaries", [True, False])
def test_a_critic_reads_its_own_history_and_of_the_others_their_last_answers(summaries: bool) -> None:
    """Never its own answer in a summary, or among the others'."""
    transcript, engine = hold(4, 3, summaries)
    assert len(engine.requests) == 4 * 3 + 4 * 2 * summaries == calls_per_problem(protocol(3, summaries), 4)
    for m in (2, 3):
        for n in range(4):
            others = "".join(f"<{transcript.answers[m - 2][other].text}>" for other in range(4) if other != n)
            if summaries:
                assert transcript.summaries[m - 2][n].prompt == f"sum[What?]{others}"
                others = f"(summary-r{m}-{n} is {10 * m + n})"
            assert transcript.answers[m - 1][n].prompt == f"upd[What?]{others}"
    last = next(request for request in engine.requests if request.key == "p1/r3/answer/1")
    assert [message["role"] for message in last.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [message["content"] for message in last.messages] == [
        "ask[What?]",
        "answer-r1-1 is 11",
        transcript.answers[1][1].prompt,
        "answer-r2-1 is 21",
        transcript.answers[2][1].prompt,
    ]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 10_000), st.integers(2, 4), st.integers(2, 4))
def test_rounds_are_synchronous_whatever_the_order(order: int, agents: int, rounds: int) -> None:
    """In whichever order agents are served, everybody reads the round before."""
    reference, plain = hold(agents, rounds, order=0)
    shuffled, engine = hold(agents, rounds, order=order)
    assert shuffled == reference
    assert {(r.key, r.seed, str(r.messages)) for r in engine.requests} == {
        (r.key, r.seed, str(r.messages)) for r in plain.requests
    }


def test_seeds_belong_to_the_place_in_the_debate() -> None:
    """Run seed, iteration, problem, round, agent and kind each change the draw."""
    seeds, plain = set[int](), protocol(3)
    places = [(plain, "p1"), (replace(plain, seed=8), "p1"), (replace(plain, iteration=4), "p1"), (plain, "p2")]
    for number, (changed, problem) in enumerate(places, 1):
        engine = ScriptedEngine(spoken)
        asyncio.run(debate(replace(PROBLEM, id=problem), Society.of(3, ()), changed, engine))
        seeds |= {request.seed for request in engine.requests}
        assert len(seeds) == number * len(engine.requests)


class Withholding(ScriptedEngine):
    """Gives no summary but the first agent's before that agent has updated its answer."""

    def __init__(self) -> None:
        super().__init__(spoken)
        self.updated = asyncio.Event()

    async def complete(self, request: Request):
        _, round, kind, agent = request.key.split("/")
        if (round, kind, agent) == ("r2", "answer", "0"):
            self.updated.set()
        elif kind == "summary" and agent != "0":
            await asyncio.wait_for(self.updated.wait(), 5)
        return await super().complete(request)


def test_nobody_waits_for_another_agents_summary() -> None:
    withheld = asyncio.run(debate(PROBLEM, Society.of(3, ()), protocol(), Withholding()))
    assert withheld == hold(3, 2)[0]


def test_a_cut_off_response_votes_by_an_explicit_answer_alone():
    def held(text: str, reason: str) -> str | None:
        engine = ScriptedEngine(lambda request: text, reason=reason)
        asked = replace(protocol(rounds=1), answer_form=AnswerForm.NUMBER)
        return asyncio.run(debate(PROBLEM, Society.of(1, []), asked, engine)).answers[0][0].answer

    assert held("We add 3 and 4, which makes 7, then take 15", "stop") == "15"
    assert held("We add 3 and 4, which makes 7, then take 15", "length") is None
    assert held("It is \\boxed{7}. To check, take 15", "length") == "7"


def test_votes_count_by_equivalence_not_by_string() -> None:
    one = answered("p", ["x"] * 3, ["0.5", r"\frac{1}{2}", "3"])
    label = consensus(one, 2, 0, 1)
    assert label.votes == 2
    assert label.agrees == (True, True, False)
    assert agrees("1/2", label, one)
    assert not agrees("3", label, one)


def test_ties_are_drawn_per_run_iteration_and_problem() -> None:
    """The same tie falls the same way each time, and each way about as often; the order of agents decides nothing."""

    def drawn(seed: int, iteration: int, last: Sequence[str] = ("1", "2")) -> list[str | None]:
        votes = [consensus(answered(f"p{i}", ["1"], last), 2, seed, iteration) for i in range(400)]
        assert all(vote.tied for vote in votes)
        return [vote.answer for vote in votes]

    first = drawn(5, 1)
    assert 150 < first.count("1") < 250
    assert first == drawn(5, 1) == drawn(5, 1, ["2", "1"])
    assert first != drawn(6, 1) and first != drawn(5, 2)
