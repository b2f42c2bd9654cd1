"""Write, read and size of a debate store against JSON lines with gzip, and HDF5's own strings.

    python -m results.bench.store [--records 4000]

All three hold the same debates and are read back into transcripts and
compared with what was written. Prints seconds (best of ``--repeat``), bytes,
and each peer's figure divided by the store's: above 1 the store is better.
The second read is of single debates in random order.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.store.reader import Store
from hpcmaf.store.schema import StoreInfo
from hpcmaf.store.writer import write_store
from hpcmaf.tasks.problems import Problem

INFO = StoreInfo("gsm8k", "number", agents=3, rounds=2, iteration=1, split="train", summaries=True)
WORDS = str.split(
    "the a of we first then therefore total number each left sum times cost per hour apples dollars so that gives "
    "which is equal to half remaining students multiply divide add subtract answer final step because twice day week"
)


def debates(records: int, seed: int = 0) -> list[Transcript]:
    """Debates of about the length and redundancy of real ones: prompts quote earlier answers."""
    draw = random.Random(seed)

    def prose(words: int) -> str:
        return " ".join(
            draw.choice(WORDS) if draw.random() < 0.85 else str(draw.randrange(10_000)) for _ in range(words)
        )

    made = []
    for row in range(records):
        question = prose(50)
        first = [prose(140) for _ in range(3)]
        summaries = [prose(60) for _ in range(3)]
        prompts = [f"Question: {question}\nOthers wrote:\n" + "\n\n".join(first[:n] + first[n + 1 :]) for n in range(3)]
        one = tuple(
            _utterance("answer", 1, n, f"Question: {question}\nThink step by step.", first[n]) for n in range(3)
        )
        middle = tuple(_utterance("summary", 2, n, prompts[n], summaries[n]) for n in range(3))
        two = tuple(
            _utterance("answer", 2, n, f"They say: {summaries[n]}\nAnswer again.", prose(140)) for n in range(3)
        )
        made.append(Transcript(Problem(f"p{row}", question, str(row), {"level": "3"}), (one, two), (middle,)))
    return made


def _utterance(kind: str, round: int, agent: int, prompt: str, text: str) -> Utterance:
    answer = text.split()[-1] if kind == "answer" else None
    return Utterance(kind, round, agent, prompt, text, answer, len(prompt) // 4, len(text) // 4)


def _from_dict(record: dict) -> Transcript:
    turns = {
        name: tuple(tuple(Utterance(**spoken) for spoken in turn) for turn in record[name])
        for name in ("answers", "summaries")
    }
    return Transcript(Problem(**record["problem"]), **turns)


class JsonLines:
    """One JSON object per line, gzip level 4 (the store's level)."""

    name = "JSON lines + gzip"

    def write(self, path: Path, transcripts: list[Transcript]) -> None:
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=4) as file:
            for transcript in transcripts:
                file.write(json.dumps(asdict(transcript)) + "\n")

    def read(self, path: Path) -> Iterator[Transcript]:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                yield _from_dict(json.loads(line))

    def pick(self, path: Path, rows: list[int]) -> None:
        """Gzip has no index: read on to the row."""
        for row in rows:
            for number, transcript in enumerate(self.read(path)):
                if number == row:
                    assert transcript.problem.id == f"p{row}"
                    break


class VlenStrings:
    """One variable-length HDF5 string per record, chunked, with gzip."""

    name = "h5py vlen strings"

    def write(self, path: Path, transcripts: list[Transcript]) -> None:
        with h5py.File(path, "w") as file:
            column = file.create_dataset(
                "record", (len(transcripts),), h5py.string_dtype(), chunks=True, compression="gzip"
            )
            for low in range(0, len(transcripts), 64):
                texts = [json.dumps(asdict(transcript)) for transcript in transcripts[low : low + 64]]
                column[low : low + len(texts)] = np.array(texts, dtype=object)

    def read(self, path: Path) -> Iterator[Transcript]:
        with h5py.File(path, "r") as file:
            column = file["record"]
            for low in range(0, len(column), 64):
                for text in column[low : low + 64]:
                    yield _from_dict(json.loads(text))

    def pick(self, path: Path, rows: list[int]) -> None:
        with h5py.File(path, "r") as file:
            for row in rows:
                assert _from_dict(json.loads(file["record"][row])).problem.id == f"p{row}"


class Ours:
    """This project's store; its writing includes fsync, sha256 and manifest."""

    name = "hpcmaf store"

    def write(self, path: Path, transcripts: list[Transcript]) -> None:
        write_store(path, INFO, transcripts)

    def read(self, path: Path) -> Iterator[Transcript]:
        with Store(path) as store:
            yield from store.transcripts(gold=True)

    def pick(self, path: Path, rows: list[int]) -> None:
        with Store(path) as store:
            for row in rows:
                assert store.find(f"p{row}", gold=True).problem.id == f"p{row}"


def _seconds(repeat: int, work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


def _exhaust(peer: Ours | JsonLines | VlenStrings, path: Path) -> None:
    for _ in peer.read(path):
        pass


def measure(records: int, repeat: int, picks: int) -> dict[str, dict[str, float]]:
    """Figures of each format: ``write``, ``read``, ``pick`` in seconds, ``size`` in bytes."""
    transcripts = debates(records)
    rows = random.Random(1).sample(range(records), min(picks, records))
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, peer in enumerate((Ours(), JsonLines(), VlenStrings())):
            path = Path(folder) / f"peer-{number}"
            write = _seconds(repeat, partial(peer.write, path, transcripts))
            if list(peer.read(path)) != transcripts:
                raise SystemExit(f"{peer.name}: does not give back what was written")
            read = _seconds(repeat, partial(_exhaust, peer, path))
            pick = _seconds(1, partial(peer.pick, path, rows))
            figures[peer.name] = {"write": write, "read": read, "pick": pick, "size": path.stat().st_size}
    return figures


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=4000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--picks", type=int, default=20)
    arguments = parser.parse_args()
    figures = measure(arguments.records, arguments.repeat, arguments.picks)
    ours = figures[Ours.name]
    print(f"{arguments.records} debates of 3 agents x 2 rounds with summaries; {arguments.picks} random picks")
    for name, row in figures.items():
        cells = (f"{key} {value:,.3f} s ({value / ours[key]:.2f})" for key, value in row.items() if key != "size")
        print(f"{name:<20}", *cells, f"size {row['size'] / 1e6:,.1f} MB ({row['size'] / ours['size']:.2f})", sep="  ")


if __name__ == "__main__":
    main()
