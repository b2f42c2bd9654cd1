"""The debate, as the paper writes it (section 2, algorithm 1)."""

from __future__ import annotations

import random
from asyncio import gather
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from hpcmaf.answers import AnswerForm
from hpcmaf.debate.consensus import consensus
from hpcmaf.debate.methods import Society
from hpcmaf.debate.transcript import NOT_ASKED, Openings, Transcript, Utterance, assistant, opening, user
from hpcmaf.engines.base import Engine, Message, Request, Sampling
from hpcmaf.seeding import derive_seed
from hpcmaf.tasks.grader import Grader
from hpcmaf.tasks.problems import Problem
from hpcmaf.tasks.prompts import Kind, PromptSet


@dataclass(frozen=True, slots=True)
class Protocol:
    """How a society of N ``agents`` debates in M ``rounds``.

    Attributes
    ----------
    summaries
        Whether critics read a summary of the others' answers, or the answers.
    cooperate
        Whether they are to integrate what they read instead of disputing it.
    ids
        Whether prompts to agents begin with the agent's ID and role.
    seed, iteration
        With problem, round, agent and kind they decide every draw.
    grader
        What reads the answers, in the form that is asked for, and compares them.
    stop
        Whether a round in which all agree is the last.
    listen
        Whose answers an agent, or its summary, reads: all others', those of the agent before it (``"ring"``), or of so
        many that are drawn.
    judge
        Whether the base picks one of the last answers, where they differ.
    own
        Prompts and sampling of agents that have others, by the agent's name.
    """

    rounds: int
    summaries: bool
    prompts: PromptSet
    answer_form: AnswerForm
    sampling: Sampling
    seed: int
    iteration: int
    cooperate: bool = False
    ids: bool = False
    agents: int = 1
    grader: Grader = Grader()
    stop: bool = False
    listen: Literal["all", "ring"] | int = "all"
    judge: bool = False
    own: Mapping[str, tuple[PromptSet, Sampling]] = field(default_factory=dict)

    def listens_to(self, problem: str, round: int, agent: int, agents: int) -> list[int]:
        """Whose answers of the round before an agent reads."""
        others = [other for other in range(agents) if other != agent]
        if self.listen == "ring":
            return [(agent - 1) % agents]
        if self.listen == "all" or self.listen >= len(others):
            return others
        seed = derive_seed(self.seed, self.iteration, problem, round, agent, "listen")
        return sorted(random.Random(seed).sample(others, self.listen))

    def prompt(self, kind: str, question: str, agent: int = 0, shown: str | Sequence[str] = "") -> str:
        """What agent n reads in round 1 (``"first"``) or later (``"update"``), or the summarizer or a judge does.

        Other kinds are ``"summarize"``, ``"judge"`` and ``"hint"``; shown are a summary, others' answers, or the gold
        one.
        """
        role = {"first": "generator", "update": "critic"}.get(kind)
        template, numbers = kind, (agent + 1, self.agents)
        if kind == "update":
            template = ("integrate" if self.cooperate else "update") + ("" if self.summaries else "_without_summary")
        prompts, _ = self.own.get(f"{role}-{agent}", (self.prompts, self.sampling))
        text = prompts.render(template, question, shown, *numbers)
        return f"{self.prompts.render(role, question, '', *numbers)}\n\n{text}" if self.ids and role else text

    @property
    def openings(self) -> Openings:
        """What stands before every chat of a kind, or of a kind and agent; kinds with nothing are left out."""
        kinds = self.prompts.openings.items()
        found: dict[str, Any] = {kind: turns for kind, turns in kinds if turns and (self.judge or kind != "judge")}
        for name, (prompts, _) in self.own.items():
            kind: Kind = "first" if name.startswith("generator") else "update"
            if (turns := prompts.openings.get(kind, ())) != found.get(kind, ()):
                found[f"{kind}/{name.rpartition('-')[2]}"] = turns
        return found

    def opening(self, kind: str, agent: int) -> tuple[Message, ...]:
        """What stands before a chat of a kind."""
        return opening(self.openings, "first" if kind == "hint" else kind, agent)

    def validate(self) -> None:
        """Render every kind of prompt once.

        Raises
        ------
        ConfigError
            The task's prompts have no words for this protocol.
        """
        for agent in range(self.agents if self.own else 1):
            self.sample_chats("1+2*3+4-5*6", agent)  # a question that all tasks' prompts can put

    def sample_chats(self, question: str, agent: int = 0, hint: bool = False) -> list[tuple[str, list[Message]]]:
        """One chat of every kind, by a title, with marks in place of what agents and the summarizer write."""
        solutions = [f"[solution of agent {n + 1}]" for n in range(max(2, self.agents))]
        others = [text for n, text in enumerate(solutions) if n != agent]

        def chat(kind: str, shown: str | Sequence[str] = "", *before: Message) -> list[Message]:
            return [*self.opening(kind, agent), *before, user(self.prompt(kind, question, agent, shown))]

        chats = [(f"first answer of agent {agent + 1}", chat("first"))]
        if hint:
            chats.append(("answer with a hint", chat("hint", "[gold answer]")))
        if self.rounds > 1:
            read: str | list[str] = others
            if self.summaries:
                chats.append((f"summary for agent {agent + 1}", chat("summarize", others)))
                read = "[summary of the others' solutions]"
            own = user(self.prompt("first", question, agent)), assistant("[its first solution]")
            chats.append((f"updated answer of agent {agent + 1}", chat("update", read, *own)))
        if self.judge:
            chats.append(("judge's choice", chat("judge", solutions)))
        return chats


def calls_per_problem(protocol: Protocol, agents: int) -> int:
    """Most completions of one debate: N * M answers, N * (M - 1) summaries where there are any, and a judgement."""
    return agents * (protocol.rounds + (protocol.rounds - 1) * protocol.summaries) + protocol.judge


async def debate(problem: Problem, society: Society, protocol: Protocol, engine: Engine) -> Transcript:
    """Let a society debate one problem: N * M answers and N * (M - 1) summaries.

    Rounds are synchronous: everything an agent reads in round m was written in round m - 1, or is its own summary of
    that, whatever the order in which agents are served. The gold answer is not looked at. Where the protocol stops
    after a round in which all agreed, see :meth:`~hpcmaf.debate.transcript.Transcript.padded`.
    """
    question, agents = problem.question, range(society.agents)
    call = partial(respond, problem, protocol, engine)

    first = (call(1, n, "answer", [user(protocol.prompt("first", question, n))], society.generators[n]) for n in agents)
    so_far = Transcript(problem, (tuple(await gather(*first)),), (), protocol.openings, protocol.grader)

    async def update(m: int, n: int) -> tuple[Utterance | None, Utterance]:
        # As soon as its own summary is there: agents do not read each other's.
        heard = protocol.listens_to(problem.id, m, n, society.agents)
        read: str | Sequence[str] = [so_far.answers[-1][other].spoken for other in heard]
        summary: Utterance | None = None
        if protocol.summaries:
            prompt = protocol.prompt("summarize", question, n, read)
            summary = await call(m, n, "summary", [user(prompt)], society.summarizer)
            read = summary.spoken
        chat = [*so_far.history(n, m - 1), user(protocol.prompt("update", question, n, read))]
        return summary, await call(m, n, "answer", chat, society.critics[n])

    for m in range(2, protocol.rounds + 1):
        if protocol.stop and consensus(so_far, m - 1, protocol.seed, protocol.iteration).votes == society.agents:
            break
        read, answers = zip(*await gather(*(update(m, n) for n in agents)), strict=True)
        summaries = (*so_far.summaries, read) if protocol.summaries else ()
        so_far = replace(so_far, answers=(*so_far.answers, answers), summaries=summaries)
    whole = so_far.padded(protocol.rounds, protocol.summaries)
    return replace(whole, judgement=await _judge(whole, protocol, society, call)) if protocol.judge else whole


async def _judge(
    transcript: Transcript, protocol: Protocol, society: Society, call: Callable[..., Awaitable[Utterance]]
) -> Utterance:
    """The summarizer's choice among the last answers; without a prompt where there is nothing to choose."""
    vote = consensus(transcript, transcript.rounds, protocol.seed, protocol.iteration)
    candidates = [turn for turn in transcript.answers[transcript.ended - 1] if turn.answer is not None]
    if vote.votes == len(candidates):
        return replace(NOT_ASKED, kind="judge", round=transcript.rounds)
    prompt = protocol.prompt("judge", transcript.problem.question, shown=[turn.spoken for turn in candidates])
    return await call(transcript.rounds, 0, "judge", [user(prompt)], society.summarizer)


async def rationalise(problem: Problem, society: Society, protocol: Protocol, engine: Engine) -> Transcript:
    """Answer a problem, and where gold says that this went wrong, once more with gold as a hint: STaR's rollouts.

    The only place before evaluation where a gold answer is looked at. The second answer has a chat of its own, as it
    has to read like a solution, not like a correction; without one its turn is empty.
    """
    call, model = partial(respond, problem, protocol, engine), society.generators[0]
    first = await call(1, 0, "answer", [user(protocol.prompt("first", problem.question))], model)
    second = replace(NOT_ASKED, round=2)
    right = protocol.grader.right(first.answer, problem)
    if problem.gold is not None and not right:
        hint = protocol.prompt("hint", problem.question, shown=problem.gold)
        second = await call(2, 0, "answer", [user(hint)], model)
    return Transcript(problem, ((first,), (second,)), openings=protocol.openings, grader=protocol.grader)


async def debate_all(
    problems: Sequence[Problem],
    society: Society,
    protocol: Protocol,
    engine: Engine,
    *,
    one: Callable[[Problem, Society, Protocol, Engine], Awaitable[Transcript]] = debate,
) -> list[Transcript]:
    """Debate all problems at once, so that requests of all of them share the engine's batches.

    ``one`` makes one problem's transcript; the debate is not shown the gold answers, which transcripts have anyway.
    """

    async def transcript(problem: Problem) -> Transcript:
        shown = replace(problem, gold=None) if one is debate else problem
        return replace(await one(shown, society, protocol, engine), problem=problem)

    # gather, not a TaskGroup: the first failure arrives as it is, so its class still decides the exit code.
    return list(await gather(*map(transcript, problems)))


async def respond(
    problem: Problem,
    protocol: Protocol,
    engine: Engine,
    round: int,
    agent: int,
    kind: Literal["answer", "summary", "judge"],
    messages: list[Message],
    model: str | None,
) -> Utterance:
    """One completion of a debate."""
    seed = derive_seed(protocol.seed, protocol.iteration, problem.id, round, agent, kind)
    prompt = {"summary": "summarize", "judge": "judge"}.get(kind, "first" if len(messages) == 1 else "update")
    chat = (*protocol.opening(prompt, agent), *messages)
    sampling = protocol.sampling
    if kind == "answer":
        _, sampling = protocol.own.get(f"{'generator' if round == 1 else 'critic'}-{agent}", (None, sampling))
    completion = await engine.complete(Request(f"{problem.id}/r{round}/{kind}/{agent}", chat, model, seed, sampling))
    answer = None
    if kind != "summary":
        cut_off = completion.finish_reason == "length"
        answer = protocol.grader.extract(completion.text, problem, protocol.answer_form, truncated=cut_off)
    counts = completion.prompt_tokens, completion.completion_tokens
    read, said = messages[-1]["content"], completion.text
    return Utterance(kind, round, agent, read, said, answer, *counts, completion.finish_reason)
