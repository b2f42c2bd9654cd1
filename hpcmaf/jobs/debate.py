"""Stage ``debate`` (training problems) and ``eval`` (held-out ones): one shard."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Sequence
from typing import Any

from hpcmaf.answers import AnswerForm
from hpcmaf.config.recipe import Recipe
from hpcmaf.debate.health import Tally, health_line
from hpcmaf.debate.methods import METHODS
from hpcmaf.debate.protocol import Protocol, calls_per_problem, debate, debate_all, rationalise
from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.engines.base import Sampling, ServedModels
from hpcmaf.engines.engine import one_engine
from hpcmaf.engines.journal import Journal
from hpcmaf.errors import StopRequested
from hpcmaf.jobs.context import TaskContext, peak_memory_bytes
from hpcmaf.jobs.serving import adapter_room, models_of, served_models, society_of, voting_weights
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks import get_task
from hpcmaf.tasks.grader import grader_of
from hpcmaf.tasks.prompts import PromptSet


def run_debate_shard(context: TaskContext) -> None:
    """Let the society debate one shard's problems and publish the transcripts.

    The society of iteration t - 1 debates the training problems of t, that of t the evaluation problems.
    """
    recipe, stage = context.recipe, context.stage
    split, evaluating = stage.spec.split, stage.spec.evaluates
    served = served_models(context.run, recipe, context.iteration - (not evaluating))
    shard = int(context.task)
    shape = recipe.shape(evaluating=evaluating)
    protocol = protocol_of(recipe, context.iteration, evaluating=evaluating)
    protocol.grader.check()  # before an engine is started
    society = society_of(recipe, served, evaluating=evaluating)
    drawn, shards = context.run.read_problems(split, context.plan), len(stage.tasks)
    # In the order of a seeded draw, shards of about as many problems take about equally long.
    problems = drawn[shard * len(drawn) // shards : (shard + 1) * len(drawn) // shards]
    one = rationalise if context.method.reads_gold and not evaluating else debate
    target = context.run.shard(context.iteration, stage.kind, shard)
    journal = Journal(context.run.journal(target))
    thinks = any(one.thinking_tokens for one in (protocol.sampling, *(own for _, own in protocol.own.values())))
    requests = 2 if thinks and context.profile.generation.engine != "endpoint" else 1
    watch = Watch(context, len(problems) * calls_per_problem(protocol, society.agents) * requests)
    watch.engine = engine = make_engine(context, served, journal, watch)
    try:
        transcripts = asyncio.run(debate_all(problems, society, protocol, engine, one=one))
    finally:
        engine.close()
        journal.close()

    info = StoreInfo(
        task=recipe.source(evaluating=evaluating).name,
        answer_form=str(protocol.answer_form),
        agents=shape.agents,
        rounds=shape.rounds,
        iteration=context.iteration,
        split=split,
        summaries=protocol.summaries,
        openings=json.dumps(protocol.openings) if protocol.openings else "",
        grader=protocol.grader.name,
        sandbox=protocol.grader.sandbox if protocol.grader.sandbox != "namespaces" else "",
        weights=voting_weights(context.run, recipe, context.iteration - (not evaluating), shape.agents),
        aggregate="judge" if protocol.judge else "",
    )
    write_store(target, info, transcripts)
    _spend(context, transcripts, engine, journal)
    # Not before the marker is written: killed in between, a shard without
    # marker and journal would be computed all over again.
    context.afterwards.append(journal.remove)


def protocol_of(recipe: Recipe, iteration: int, *, evaluating: bool) -> Protocol:
    """How a recipe's agents debate evaluation problems, or training problems."""
    method, source = METHODS[recipe.method], recipe.source(evaluating=evaluating)
    task, fixed = get_task(source.name), {} if method.temperature is None else {"temperature": method.temperature}

    def settings_of(one: Recipe) -> tuple[PromptSet, Sampling]:
        prompts = task.prompts(one.source(evaluating=evaluating).prompts)
        return prompts, one.sampling.model_copy(update=fixed)

    prompts, sampling = settings_of(recipe)
    others = {name: settings_of(recipe.of(name)) for name in recipe.named}
    return Protocol(
        rounds=recipe.shape(evaluating=evaluating).rounds,
        summaries=method.summaries and not method.reads_gold,
        prompts=prompts,
        answer_form=AnswerForm(source.answer) if source.answer else task.answer_form,
        sampling=sampling,
        seed=recipe.seed,
        iteration=iteration,
        cooperate=method.critic_style == "cooperate",
        ids=method.ids,
        agents=recipe.debate.agents,
        grader=grader_of(source),
        stop=recipe.debate.stop == "unanimous",
        listen=recipe.debate.listen,
        judge=recipe.debate.aggregate == "judge" and not method.reads_gold,
        own={name: found for name, found in others.items() if found != (prompts, sampling)},
    )


class Watch:
    """Counts completions and says so after each batch."""

    def __init__(self, context: TaskContext, total: int) -> None:
        self.context = context
        self.total = total
        self.done = 0
        self.engine: Any = None

    def __call__(self, completions: int) -> None:
        self.done += completions
        self.context.report_progress(self.done, self.total, "completions", self.engine.note)
        if self.context.stop.requested and self.done < self.total:
            # The batch is in the journal: nothing is lost.
            raise StopRequested(f"{self.context.stage.id} {self.context.task}: stopped at {self.done}/{self.total}")


def make_engine(context: TaskContext, served: Sequence[ServedModels], journal: Journal, watch: Watch):
    """The engine that the profile names, or one for each base; engines are imported only when used."""
    generation = context.profile.generation
    shared: dict[str, Any] = {"journal": journal, "on_batch": watch}
    if generation.engine == "endpoint":
        from hpcmaf.engines.client import EndpointEngine

        assert (endpoint := generation.endpoint) is not None

        def on_endpoint(one: ServedModels) -> EndpointEngine:
            # Other bases are other models of the same server.
            named = {} if one is served[0] else {"model": one.base}
            return EndpointEngine(endpoint.model_copy(update=named), **shared)

        return one_engine(served, on_endpoint)
    if generation.engine == "vllm":
        from hpcmaf.engines.vllm import VllmEngine

        # As many as once all agents are trained, or servers would be given another share of the memory then.
        bases = len(models_of(context.recipe, dict.fromkeys(context.recipe.trained, "")))

        def on_servers(one: ServedModels) -> VllmEngine:
            log = context.attempt / "server.log"
            return VllmEngine(
                one,
                generation,
                device=generation.device,
                run=context.run.root,
                log=log if one is served[0] else log.with_stem(f"server-base{served.index(one)}"),
                room=adapter_room(context.recipe, one),
                halvings=context.halvings,
                bases=bases,
                keep=context.keep_servers,
                # Training waits for its debates, and for no evaluation.
                priority=int(context.stage.spec.evaluates),
                **shared,
            )

        return one_engine(served, on_servers)
    # A fifth of the imports' time would go into looking for garbage among them.
    gc.disable()
    from hpcmaf.engines.transformers_engine import TransformersEngine

    gc.freeze()
    gc.enable()
    batch_size = max(1, generation.batch_size >> context.halvings)
    return one_engine(
        served, lambda one: TransformersEngine(one, device=generation.device, batch_size=batch_size, **shared)
    )


def _spend(context: TaskContext, transcripts: Sequence[Transcript], engine: Any, journal: Journal) -> None:
    """Tokens per agent, by whose turn they were; time and memory per task.

    Agents share batches, so time is not theirs to divide.
    """
    tally = Tally()
    for transcript in transcripts:
        tally.add(transcript)
    print(f"{context.stage.id} {context.task}: {health_line(tally.values(votes=False))}", flush=True)
    turns: dict[str, list[Utterance]] = {}
    for utterance in (turn for transcript in transcripts for turn in transcript.completions):
        role = "generator" if utterance.round == 1 else "critic"
        base = {"summary": "summarizer", "judge": "judge"}
        name = base.get(utterance.kind) or f"{role}-{utterance.agent}"
        turns.setdefault(name, []).append(utterance)
    for agent, spoken in sorted(turns.items()):
        context.spend(
            agent,
            calls=len(spoken),
            cut_off=sum(turn.cut_off for turn in spoken),
            prompt_tokens=sum(turn.prompt_tokens for turn in spoken),
            completion_tokens=sum(turn.completion_tokens for turn in spoken),
        )
    context.spend(
        # What earlier attempts took besides generation, such as starting, is lost with them.
        wall_seconds=journal.earlier + time.monotonic() - context.started,
        gpu_seconds=journal.seconds * engine.gpus,
        peak_memory_bytes=engine.peak_memory_bytes if engine.gpus else peak_memory_bytes(),
        engine=engine.averages(),
    )
