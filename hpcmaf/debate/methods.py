"""The table of methods: who is trained on what, and how inference runs.

A method is data. The pipeline reads these fields and never asks for a method's name; a new method is a new row, and a
new idea a new value of a field, in the one place that reads it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

# Name of the model that writes summaries and judges, where it is not the base of the run.
SUMMARIZER = "summarizer"
# Name of the one model of methods that train one for all agents.
SINGLE = "single"
Objective = Literal["sft", "dpo", "kto", "grpo"]


@dataclass(frozen=True, slots=True)
class Society:
    """Names of the models of N generation and N critic agents, and of the summarizer; ``None`` is the run's base."""

    generators: tuple[str | None, ...]
    critics: tuple[str | None, ...]
    summarizer: str | None = None

    @classmethod
    def of(cls, agents: int, models: Collection[str]) -> Society:
        """Society of N agents in which those named in ``models`` have a model of their own."""
        roles = ([f"{role}-{n}" for n in range(agents)] for role in ("generator", "critic"))
        return cls(*(tuple(name if name in models else None for name in names) for names in roles))

    @property
    def agents(self) -> int:
        """N."""
        return len(self.generators)


@dataclass(frozen=True, slots=True)
class Shape:
    """How many agents speak in how many rounds."""

    agents: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the comparison table (paper, section 3 and ablations).

    Attributes
    ----------
    trained
        Who is finetuned: no model, every agent a model of its own, the generators alone, one model that plays all
        agents, or (``distilled``) every agent and one model that learns what their debates come to.
    rollout
        What is run on training problems: the debate; N first answers and no debate; or one answer, and where gold says
        it is wrong a second one with gold as a hint.
    data
        What they are finetuned on, a key of :data:`hpcmaf.selection.sources.DATA`.
    inference
        What is run on evaluation problems: the debate, N answers and their vote, or one answer.
    summaries
        Whether critics read a summary of the others' answers, or the answers themselves.
    critic_style
        Whether a critic is to dispute the others' answers or to integrate them.
    ids
        Whether each agent's prompts begin with its ID and role.
    temperature
        Overrides the recipe's.
    first_answers_by
        Generator whose model gives all first answers in evaluation; the agent's own otherwise.
    """

    name: str
    trained: Literal["none", "agents", "generators", "single", "distilled"] = "agents"
    rollout: Literal["debate", "answers", "hints"] = "debate"
    data: Literal["own", "pairs", "judged", "groups", "union", "responses", "voted", "gold"] = "own"
    objective: Objective = "sft"
    inference: Literal["debate", "vote", "answer"] = "debate"
    summaries: bool = True
    critic_style: Literal["dispute", "cooperate"] = "dispute"
    ids: bool = False
    temperature: float | None = None
    first_answers_by: int | None = None

    @property
    def reads_gold(self) -> bool:
        """Whether training sees gold answers: STaR, and no other."""
        return self.rollout == "hints"

    def trained_agents(self, agents: int, rounds: int) -> list[str]:
        """Names of the models that one iteration finetunes; without a second round there are no critics to train."""
        generators = [f"generator-{n}" for n in range(agents)]
        own = generators + ([f"critic-{n}" for n in range(agents)] if rounds > 1 else [])
        names = {"none": [], "agents": own, "generators": generators, "single": [SINGLE], "distilled": [*own, SINGLE]}
        return names[self.trained]

    def rollout_shape(self, agents: int, rounds: int) -> Shape:
        """What training debates look like, of a recipe's N and M."""
        return {"debate": Shape(agents, rounds), "answers": Shape(agents, 1), "hints": Shape(1, 2)}[self.rollout]

    def inference_shape(self, agents: int, rounds: int) -> Shape:
        """What evaluation looks like; its answer is always the vote of the last round."""
        return {"debate": Shape(agents, rounds), "vote": Shape(agents, 1), "answer": Shape(1, 1)}[self.inference]

    def society(self, agents: int, models: Collection[str], *, evaluating: bool) -> Society:
        """Which of the trained models each of N agents speaks with; the others are the base."""
        if self.trained == "single" or (self.trained == "distilled" and evaluating):
            everybody = (SINGLE if SINGLE in models else None,) * agents
            return Society(everybody, everybody)
        society = Society.of(agents, models)
        if evaluating and self.first_answers_by is not None:
            return replace(society, generators=(society.generators[self.first_answers_by],) * agents)
        return society


# The paper's method, its baselines and ablations, and controls that its reviewers wanted.
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("base", trained="none", inference="answer"),
        Method("majority", trained="none", inference="vote"),
        Method("debate", trained="none"),
        Method("star", trained="single", rollout="hints", data="gold", inference="answer"),
        Method("majority-ft", trained="single", rollout="answers", data="responses", inference="vote"),
        Method("single-agent-ft", trained="single", data="responses"),
        Method("single-agent-ft-no-debate", trained="single", data="responses", inference="answer"),
        Method("maft"),
        Method("maft-no-summary", summaries=False),
        Method("maft-no-critic", trained="generators"),
        Method("unique-id", trained="none", ids=True),
        Method("cooperative", trained="none", critic_style="cooperate"),
        Method("cooperative-ft", critic_style="cooperate"),
        Method("single-agent-ft-hot", trained="single", data="responses", temperature=2.0),
        Method("no-interaction", first_answers_by=0),
        Method("union-data", trained="single", data="union"),
        Method("maft-dpo", data="pairs", objective="dpo"),
        Method("maft-kto", data="judged", objective="kto"),
        Method("maft-grpo", data="groups", objective="grpo"),
        Method("distil", trained="distilled", data="voted", inference="answer"),
    )
}
