"""One study of all methods: a tiny random model, real debates, real finetuning, one iteration."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hpcmaf.config.profile import load_profile
from hpcmaf.debate.methods import METHODS
from hpcmaf.debate.transcript import Transcript
from hpcmaf.engines import Completion, Request
from hpcmaf.files import publish
from hpcmaf.jobs import debate as debate_stage
from hpcmaf.run.directory import RunDir
from hpcmaf.store.reader import Store
from hpcmaf.study.plan import Study, StudyRun, load_study
from hpcmaf.study.drive import drive_study
from hpcmaf.training.launch import Workers
from tests.jobs.playing import carry_on
from tests.tiny_models import answering_model

N, M, TRAIN, EVAL = 2, 2, 16, 4
# With this seed some training problems come to one of these digits, which are
# all that the model says: so STaR has answers that gold confirms.
SEED, DIGITS = 48981, "245"

FILE = f"""\
tasks: [arithmetic]
models: [micro]
methods: [{", ".join(METHODS)}]
seeds: [{SEED}]
iterations: 1
baseline: debate
set:
  model.path: MODEL
  task.prompts: default
  task.train: {TRAIN}
  task.eval: {EVAL}
  debate.agents: {N}
  debate.rounds: {M}
  sampling.max_new_tokens: 6
  selection.mix: exact
  training.max_length: 4096
  training.epochs: 1
"""


@dataclass
class Studied:
    """The study; by method and stage what the engine was asked and what it said (``said``), and the models it had."""

    study: Study
    said: dict[tuple[str, str], list[tuple[Request, Completion]]] = field(default_factory=dict)
    served: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)

    def run(self, name: str) -> RunDir:
        """The run of a method."""
        return next(entry.run for entry in self.study.runs if entry.label == name)

    def debates(self, name: str, t: int, kind: str) -> list[Transcript]:
        """What a run's agents said, with gold answers."""
        with Store(self.run(name).store(t, kind)) as store:
            return list(store.transcripts(gold=True))

    def watch(self, patch: pytest.MonkeyPatch) -> None:
        """Take down what real engines are asked, and what they say."""
        real = debate_stage.make_engine

        def make(context: Any, served: Any, *rest: Any) -> Any:
            engine, place = real(context, served, *rest), (context.recipe.method, context.stage.id)
            complete, said = engine.complete, self.said.setdefault(place, [])
            self.served[place] = {name: model for one in served for name, model in one.agents.items()}

            async def watched(request: Request) -> Completion:
                completion = await complete(request)
                said.append((request, completion))
                return completion

            engine.complete = watched
            return engine

        patch.setattr(debate_stage, "make_engine", make)


def carry_out(folder: Path, patch: pytest.MonkeyPatch) -> Studied:
    """Every method from plan to ledger; what is the same in several is computed once."""
    base = answering_model(folder / "base", DIGITS, context=4096)
    file = folder / "every-method.yaml"
    file.write_text(FILE.replace("MODEL", json.dumps(str(base))))
    studied = Studied(load_study(str(file), root=folder / "runs"))
    studied.watch(patch)
    # Nobody pulls the plug here, and forcing small files to disk takes its time.
    patch.setattr(publish, "sync", lambda path: None)
    with Workers() as workers:

        def start(planned: StudyRun) -> Iterator[None]:
            yield carry_on(planned.run, planned.plan, workers)

        profile = load_profile("local", ["generation.device=cpu", "finetuning.device=cpu"])
        drive_study(studied.study, profile, print, start, poll_seconds=0.0)
    return studied
