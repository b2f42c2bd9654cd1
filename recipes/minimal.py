"""Multiagent finetuning in one screen: debate, vote, select, finetune, repeat.

    python recipes/minimal.py [FOLDER]

The packaged micro model on CPUs, in about two minutes. This is the whole
method; ``hpcmaf submit`` adds jobs, shards, resuming, servers and reports. So
few problems move accuracy within its standard error, 4 points: results/micro
has the same with 500 problems, where debates go from 79 to 92 percent.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from hpcmaf import (
    FinetuneJob,
    Problem,
    Protocol,
    Sampling,
    Selection,
    ServedModels,
    Society,
    StoreInfo,
    Transcript,
    TransformersEngine,
    Workers,
    base_model,
    consensus,
    debate_all,
    equivalent,
    get_task,
    run_finetune,
    write_selection,
    write_store,
)

N, M, L = 3, 2, 2  # agents, rounds, iterations
W, SEED = 0.5, 0  # share of corrections in a critic's data
TASK, BASE = get_task("arithmetic"), base_model("micro")


def hold_debates(problems: list[Problem], models: dict[str, str], iteration: int) -> list[Transcript]:
    """N generators answer, N critics read a summary of the others and revise, M - 1 times.

    ``models`` maps ``"generator-0"``, ``"critic-0"`` and so on to adapters; an
    agent without one is the base, and so is the summarizer, always.
    """
    protocol = Protocol(
        rounds=M,
        summaries=True,
        prompts=TASK.prompts("compact"),
        answer_form=TASK.answer_form,
        sampling=Sampling(temperature=1.0, top_p=0.9, max_new_tokens=80),
        seed=SEED,
        iteration=iteration,
    )
    engine = TransformersEngine(ServedModels(BASE, "lora", models, dtype="float32"), device="cpu")
    try:
        return asyncio.run(debate_all(problems, Society.of(N, list(models)), protocol, engine))
    finally:
        engine.close()


def accuracy(transcripts: list[Transcript], iteration: int) -> float:
    """Share of problems whose vote, the majority of the last round, is the gold answer."""
    votes = [(one, consensus(one, M, SEED, iteration).answer) for one in transcripts]
    return sum(vote is not None and equivalent(vote, str(one.problem.gold)) for one, vote in votes) / len(votes)


def select(transcripts: list[Transcript], iteration: int, folder: Path) -> dict[str, Path]:
    """Every agent's own successes, as the vote sees them; no gold answer is read.

    A generator keeps its first answers that match the vote, a critic its
    trajectories that end in the vote: a share W of them began wrong.
    """
    info = StoreInfo("arithmetic", "number", N, M, iteration, "train", summaries=True)
    write_store(folder / "debate.h5", info, transcripts)
    counts = write_selection(folder / "debate.h5", folder / "data", Selection(w=W, mix="cap"), seed=SEED)
    return {agent: folder / "data" / f"{agent}.jsonl" for agent in counts["datasets"]}


def finetune(agent: str, data: Path, start: str | None, iteration: int, folder: Path, workers: Workers) -> str:
    """One agent on its data alone, from its model of the iteration before; returns its new adapter."""
    job = FinetuneJob(
        base=BASE,
        start=start,
        dataset=str(data),
        output=str(folder / "agents" / agent),
        agent=agent,
        iteration=iteration,
        seed=SEED,
        epochs=4,
        learning_rate=1e-3,
        batch_size=8,
        micro_batch_size=8,
        device="cpu",
    )
    run_finetune(job, folder / "logs" / agent, workers=workers)
    return job.output


def main(folder: Path, training: int = 80, held_out: int = 100) -> None:
    """L iterations; prints the accuracy on held-out problems after each."""
    problems = TASK.splits(None, training, held_out, SEED)  # disjoint
    models: dict[str, str] = {}
    print(f"iteration 0: {accuracy(hold_debates(problems.eval, models, 0), 0):.1%}", flush=True)
    with Workers() as workers:  # one process for all jobs, which loads the base once
        for t in range(1, L + 1):
            root = folder / f"it{t:02d}"
            data = select(hold_debates(problems.train, models, t), t, root)
            models = {name: finetune(name, own, models.get(name), t, root, workers) for name, own in data.items()}
            print(f"iteration {t}: {accuracy(hold_debates(problems.eval, models, t), t):.1%}", flush=True)


if __name__ == "__main__":  # imported by the processes that compare answers
    disable_progress_bar()
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="maf-")))
