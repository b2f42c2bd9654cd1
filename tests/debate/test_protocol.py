"""The debate of method.md, "One iteration", steps 1 and 2: who reads what, and when, and who wins the vote."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcmaf.answers import AnswerForm
from hpcmaf.debate.consensus import agrees, consensus
from hpcmaf.debate.protocol import Protocol, calls_per_problem, debate
from hpcmaf.debate.society import Society
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


def hold(
    agents: int, rounds: int, summaries: bool = True, order: int = 0, models=()
) -> tuple[Transcript, ScriptedEngine]:
    engine = ScriptedEngine(spoken, order)
    society = Society.of(agents, models)
    return asyncio.run(debate(PROBLEM, society, protocol(rounds, summaries), engine)), engine


@pytest.mark.parametrize(("agents", "rounds", "calls"), [(3, 2, 9), (5, 2, 15), (5, 3, 25), (2, 1, 2), (1, 1, 1)])
def test_calls_per_problem(agents: int, rounds: int, calls: int) -> None:
    """N*M answers + N*(M-1) summaries."""
    transcript, engine = hold(agents, rounds)
    assert len(engine.requests) == calls == calls_per_problem(protocol(rounds), agents)
    assert (transcript.agents, transcript.rounds, len(transcript.summaries)) == (agents, rounds, rounds - 1)
    assert len({request.key for request in engine.requests}) == calls


def test_a_summary_never_holds_the_agents_own_answer() -> None:
    transcript, _ = hold(4, 3)
    for m, turns in enumerate(transcript.summaries, start=2):
        for n, summary in enumerate(turns):
            for other in range(4):
                text = transcript.answers[m - 2][other].text
                assert (f"<{text}>" in summary.prompt) == (other != n)


def test_a_critic_sees_its_own_history_and_its_summary() -> None:
    _, engine = hold(2, 3)
    request = next(r for r in engine.requests if r.key == "p1/r3/answer/1")
    assert [m["role"] for m in request.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [m["content"] for m in request.messages] == [
        "ask[What?]",
        "answer-r1-1 is 11",
        "upd[What?](summary-r2-1 is 21)",
        "answer-r2-1 is 21",
        "upd[What?](summary-r3-1 is 31)",
    ]


def test_without_summaries_critics_read_the_answers() -> None:
    transcript, engine = hold(3, 2, summaries=False)
    assert len(engine.requests) == 6 == calls_per_problem(protocol(summaries=False), 3)
    assert transcript.summaries == ()
    assert transcript.answers[1][1].prompt == "upd[What?]<answer-r1-0 is 10><answer-r1-2 is 12>"


def test_who_speaks_with_which_model() -> None:
    """Generators speak in round 1, critics after it, the base summarizes."""
    names = [f"{role}-{n}" for role in ("generator", "critic") for n in range(3)]
    _, engine = hold(3, 3, models=names)
    for request in engine.requests:
        _, round, kind, agent = request.key.split("/")
        expected = None if kind == "summary" else f"{'generator' if round == 'r1' else 'critic'}-{agent}"
        assert request.model == expected
    _, engine = hold(3, 2, models=names[:3])
    assert {r.model for r in engine.requests if "/r2/" in r.key} == {None}


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
    _, engine = hold(3, 3)
    seeds = {request.seed for request in engine.requests}
    assert len(seeds) == len(engine.requests)
    for changed in (replace(protocol(3), seed=8), replace(protocol(3), iteration=4)):
        other = ScriptedEngine(spoken)
        asyncio.run(debate(PROBLEM, Society.of(3, ()), changed, other))
        assert seeds.isdisjoint(request.seed for request in other.requests)
    other = ScriptedEngine(spoken)
    asyncio.run(debate(replace(PROBLEM, id="p2"), Society.of(3, ()), protocol(3), other))
    assert seeds.isdisjoint(request.seed for request in other.requests)


def test_gold_is_never_shown() -> None:
    _, engine = hold(3, 2)
    assert not any("GOLD" in message["content"] for request in engine.requests for message in request.messages)


def test_answers_are_extracted_and_counted() -> None:
    transcript, _ = hold(2, 2)
    first = transcript.answers[0][1]
    assert (first.answer, first.text) == ("11", "answer-r1-1 is 11")
    assert first.prompt_tokens == len("ask[What?]")
    assert first.completion_tokens == len(first.text) + 1
    assert transcript.summaries[0][0].answer is None


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


@pytest.mark.parametrize("summaries", [True, False])
def test_nobody_reads_a_thought(summaries: bool) -> None:
    """Not of another agent, not in a summary, not an agent its own; what it learns from keeps its thought."""

    def thinking(request: Request) -> str:
        return f"<think>\nsecret of {request.key}\n</think>\n\n{spoken(request)}"

    engine = ScriptedEngine(thinking, 0)
    held = asyncio.run(debate(PROBLEM, Society.of(3, ()), protocol(3, summaries), engine))
    assert not [
        message for request in engine.requests for message in request.messages if "secret" in message["content"]
    ]
    assert [answer.spoken for answer in held.answers[-1]] == [f"answer-r3-{n} is {30 + n}" for n in range(3)]
    chat = held.conversation(1, 3)
    assert ["secret" in turn["content"] for turn in chat] == [False] * 5 + [True]
    assert chat[:-1] == list(next(r for r in engine.requests if r.key == "p1/r3/answer/1").messages)


def test_a_thought_without_end_says_nothing() -> None:
    held = asyncio.run(debate(PROBLEM, Society.of(2, ()), protocol(), ScriptedEngine(lambda _: "<think>\nIt is 7", 0)))
    assert {(turn.answer, turn.spoken) for turns in held.answers for turn in turns} == {(None, "")}


def test_only_the_final_round_votes() -> None:
    assert consensus(answered("p", ["1", "1", "1"], ["2", "2", "1"]), 2, 0, 1).answer == "2"


def test_votes_count_by_equivalence_not_by_string() -> None:
    one = answered("p", ["x"] * 3, ["0.5", r"\frac{1}{2}", "3"])
    label = consensus(one, 2, 0, 1)
    assert label.votes == 2
    assert label.agrees == (True, True, False)
    assert agrees("1/2", label, one)
    assert not agrees("3", label, one)


def test_ties_are_drawn_per_run_iteration_and_problem() -> None:
    """The same tie falls the same way each time, and each way about as often."""
    draws = [consensus(answered(f"p{i}", ["1"], ["1", "2"]), 2, 5, 1) for i in range(400)]
    assert all(draw.tied for draw in draws)
    assert draws == [consensus(answered(f"p{i}", ["1"], ["1", "2"]), 2, 5, 1) for i in range(400)]
    ones = sum(draw.answer == "1" for draw in draws)
    assert 150 < ones < 250
    swapped = [consensus(answered(f"p{i}", ["1"], ["2", "1"]), 2, 5, 1).answer for i in range(400)]
    assert swapped == [draw.answer for draw in draws], "the order of agents decided a tie"
    for seed, iteration in ((6, 1), (5, 2)):
        again = [consensus(answered(f"p{i}", ["1"], ["1", "2"]), 2, seed, iteration).answer for i in range(400)]
        assert again != [draw.answer for draw in draws]
