"""Stage ``debate`` (training problems) and ``eval`` (held-out ones): one shard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

from hpcmaf.debate.protocol import Protocol, calls_per_problem, debate
from hpcmaf.debate.society import Society
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.engines.base import Engine, Sampling, ServedModels
from hpcmaf.engines.journal import Journal
from hpcmaf.plan import shard_range
from hpcmaf.publish import manifest_path
from hpcmaf.stages.context import TaskContext, peak_memory_bytes
from hpcmaf.store import StoreInfo, write_store
from hpcmaf.tasks import get_task
from hpcmaf.tasks.base import Problem

SPLITS = {"debate": "train", "eval": "eval"}


def run_debate_shard(context: TaskContext) -> None:
    """Let the society debate one shard's problems and publish the transcripts.

    Training debates of iteration t are held by the society of t - 1, its
    evaluation by that of t.
    """
    recipe, stage = context.recipe, context.stage
    split = SPLITS[stage.kind]
    iteration = context.iteration if stage.kind == "eval" else context.iteration - 1
    models = context.models(iteration)
    shard = int(context.task)
    problems = context.run.read_problems(split, context.plan)
    problems = [problems[i] for i in shard_range(len(problems), len(stage.tasks), shard)]

    task = get_task(recipe.task.name)
    answer_form = task.answer_form(recipe.task.prompts)
    protocol = Protocol(
        rounds=recipe.debate.rounds,
        summaries=context.method.summaries,
        prompts=task.prompts(recipe.task.prompts),
        answer_form=answer_form,
        sampling=Sampling(**recipe.sampling.model_dump()),
        seed=recipe.seed,
        iteration=context.iteration,
    )
    society = Society.of(recipe.debate.agents, list(models))
    target = context.run.shard(context.iteration, stage.kind, shard)
    journal = Journal(context.run.journal(target))
    watch = _Watch(context, len(problems) * calls_per_problem(protocol, society.agents))
    engine = make_engine(context, models, journal, watch)
    try:
        transcripts = asyncio.run(_debate_all(problems, society, protocol, engine))
        seconds = engine.seconds
    finally:
        engine.close()

    info = StoreInfo(
        task=recipe.task.name,
        answer_form=str(answer_form),
        agents=recipe.debate.agents,
        rounds=recipe.debate.rounds,
        iteration=context.iteration,
        split=split,
        summaries=protocol.summaries,
    )
    write_store(target, info, transcripts)
    context.outputs += [target, manifest_path(target)]
    _spend(context, transcripts, seconds, journal.seconds, on_gpu=engine.device.type == "cuda")
    # Not before the marker is written: killed in between, a shard without
    # marker and journal would be computed all over again.
    context.afterwards.append(journal.remove)


async def _debate_all(
    problems: Sequence[Problem], society: Society, protocol: Protocol, engine: Engine
) -> list[Transcript]:
    # gather, not a TaskGroup: the first failure arrives as it is, so its class
    # still decides what the user is told.
    return list(await asyncio.gather(*(debate(problem, society, protocol, engine) for problem in problems)))


class _Watch:
    """Counts completions and says so after each batch."""

    def __init__(self, context: TaskContext, total: int) -> None:
        self.context = context
        self.total = total
        self.done = 0

    def __call__(self, completions: int) -> None:
        self.done += completions
        self.context.report_progress(self.done, self.total, "completions")


def make_engine(context: TaskContext, models: dict[str, str], journal: Journal, watch: _Watch):
    """Start the engine the profile names; engines are imported only when used."""
    from hpcmaf.engines.transformers_engine import TransformersEngine

    model, generation = context.recipe.model, context.profile.generation
    served = ServedModels(
        base=context.base,
        tuning=context.recipe.training.tuning,
        agents=models,
        dtype=model.dtype,
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
    )
    return TransformersEngine(
        served,
        device=generation.device,
        batch_size=generation.batch_size,
        loaded_models=generation.loaded_models,
        journal=journal,
        on_batch=watch,
    )


def _spend(
    context: TaskContext, transcripts: Sequence[Transcript], seconds: float, earlier: float, on_gpu: bool
) -> None:
    """Tokens per agent, by whose turn they were; time and memory per task.

    Agents share batches, so time is not theirs to divide.

    Parameters
    ----------
    seconds
        Spent on generation, by this attempt and by earlier ones.
    earlier
        Those of earlier attempts. What else they took, such as starting, is
        lost with them.
    """
    turns: dict[str, list[Utterance]] = {}
    for utterance in _all_turns(transcripts):
        role = "generator" if utterance.round == 1 else "critic"
        name = "summarizer" if utterance.kind == "summary" else f"{role}-{utterance.agent}"
        turns.setdefault(name, []).append(utterance)
    for agent, spoken in sorted(turns.items()):
        context.spend(
            agent,
            calls=len(spoken),
            prompt_tokens=sum(turn.prompt_tokens for turn in spoken),
            completion_tokens=sum(turn.completion_tokens for turn in spoken),
        )
    memory = peak_memory_bytes()
    if on_gpu:
        import torch

        memory = torch.cuda.max_memory_allocated()
    wall = earlier + time.monotonic() - context.started
    context.spend(wall_seconds=wall, gpu_seconds=seconds if on_gpu else 0.0, peak_memory_bytes=memory)


def _all_turns(transcripts: Sequence[Transcript]) -> Iterable[Utterance]:
    for transcript in transcripts:
        for turns in (*transcript.answers, *transcript.summaries):
            yield from turns
