"""What a GPU did while debates were held: sampled over time, and drawn."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

_SECONDS = 0.2


class Watch:
    """Samples the requests in progress and what ``nvidia-smi`` says, as long as it is entered.

    Attributes
    ----------
    samples
        ``(seconds, requests in flight, % of time with a kernel, watts)``;
        the last two are ``None`` without a GPU.
    """

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.samples: list[tuple[float, int, float | None, float | None]] = []
        self._now: tuple[float | None, float | None] = (None, None)
        self._over = threading.Event()
        self._smi: subprocess.Popen[str] | None = None

    def __enter__(self) -> Watch:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu,power.draw", "--format=csv,noheader,nounits", "-lms", "200"]
        try:
            # It numbers cards by itself, whichever this process may see.
            card = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
            self._smi = subprocess.Popen([*query, "-i", card], stdout=subprocess.PIPE, text=True)
            threading.Thread(target=self._read, daemon=True).start()
        except FileNotFoundError:
            pass
        self._began = time.monotonic()
        threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._smi is not None:
            self._smi.kill()
            self._smi.wait()

    def _read(self) -> None:
        assert self._smi is not None and self._smi.stdout is not None
        for line in self._smi.stdout:
            busy, _, watts = line.partition(",")
            self._now = float(busy), float(watts)

    def _sample(self) -> None:
        while not self._over.wait(_SECONDS):
            flying = sum(len(seat.in_flight) for seat in self.engine.seats)
            self.samples.append((time.monotonic() - self._began, flying, *self._now))

    def summary(self, seats: int) -> dict[str, Any]:
        """Share of the places of the engine's steps that stood empty, and of time without a kernel."""
        empty = [1 - min(flying, seats) / seats for _, flying, _, _ in self.samples]
        still = [1 - busy / 100 for _, _, busy, _ in self.samples if busy is not None]
        watts = [power for *_, power in self.samples if power is not None]
        return {
            "empty_places": round(sum(empty) / len(empty), 3),
            "without_kernel": round(sum(still) / len(still), 3) if still else None,
            "mean_watts": round(sum(watts) / len(watts)) if watts else None,
        }


def draw(contestants: dict[str, list[Any]], seats: int, path: Path) -> None:
    """Requests in flight, and idle share and power where they are known, over the seconds of each contestant."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (above, middle, below) = plt.subplots(
        3, 1, sharex=True, figsize=(8, 6.5), layout="constrained", height_ratios=(3, 2, 3)
    )
    for name, samples in contestants.items():
        seconds = [sample[0] for sample in samples]
        above.plot(seconds, [min(sample[1], seats) for sample in samples], label=name)
        if all(sample[2] is not None and sample[3] is not None for sample in samples):
            middle.plot(seconds, [100 - sample[2] for sample in samples])
            below.plot(seconds, [sample[3] for sample in samples])
    above.set_ylabel(f"requests in a step, of {seats}")
    middle.set_ylabel("% of time\nwithout a kernel")
    middle.set_ylim(-3, 103)
    below.set_ylabel("GPU power, W")
    below.set_xlabel("seconds")
    above.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(contestants))
    figure.savefig(path, dpi=110)
