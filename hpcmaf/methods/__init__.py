"""The table of methods: what is trained on what, and how inference runs.

A method is data. The pipeline reads these fields and never asks for a
method's name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the comparison table (paper, section 3 and ablations).

    Attributes
    ----------
    trains_generators, trains_critics
        Whose models are finetuned; the others stay the untouched base.
    summaries
        Whether critics read a summary of the others' answers, or the answers
        themselves.
    """

    name: str
    about: str
    trains_generators: bool = True
    trains_critics: bool = True
    summaries: bool = True

    def trained_agents(self, agents: int, rounds: int) -> list[str]:
        """Names of the models that one iteration finetunes.

        Without a second round nobody ever plays a critic, so none is trained.
        """
        generators = [f"generator-{n}" for n in range(agents)] if self.trains_generators else []
        critics = [f"critic-{n}" for n in range(agents)] if self.trains_critics and rounds > 1 else []
        return generators + critics


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("maft", "multiagent finetuning: 2N specialists, debate with summaries"),
        Method("maft-no-summary", "maft with the others' answers concatenated instead of summarized", summaries=False),
        Method("maft-no-critic", "only the N generators are trained; critics stay the base", trains_critics=False),
        Method("debate", "no training: N copies of the base debate", trains_generators=False, trains_critics=False),
    )
}
