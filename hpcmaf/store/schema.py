"""Layout of a debate store: what is called what, and how it is laid down.

Text is kept as one flat ``uint8`` array of UTF-8 bytes and one ``int64`` array of row offsets, because HDF5's own
variable-length strings neither compress nor take checksums. Every dataset carries fletcher32, and the file format is
that of HDF5 1.10, whose metadata is checksummed as well: a flipped bit reads back as an error, not as another debate.

A text column ``c`` is a group of ``c/data`` and ``c/offsets`` (rows + 1), an integer column is a dataset. The root's
attributes are schema, version and those of :class:`StoreInfo`. Utterances are ordered by problem, round, kind and
agent. Prompts and texts share a column because prompts quote earlier texts: side by side they compress to two thirds of
what they need apart.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import h5py
import numpy as np

from hpcmaf.debate.transcript import Transcript, Utterance
from hpcmaf.errors import StoreError

SCHEMA = "hpcmaf-debate"
VERSION = 1
MANIFEST_SCHEMA = f"{SCHEMA}/{VERSION}"

KINDS = ("summary", "answer", "judge")
FINISH_REASONS = ("stop", "length", "unknown")

# Text columns, with their rows per row of the table.
TEXTS = {
    "problems/id": 1,
    "problems/question": 1,
    "problems/meta": 1,  # a JSON object of strings
    "problems/gold": 1,  # empty where has_gold is 0
    "utterances/exchange": 2,  # row 2u is the prompt of utterance u, row 2u + 1 the response
    "utterances/answer": 1,  # empty where parsed is 0
}
INTEGERS = {
    "problems/has_gold": "<u1",
    "problems/utterance_offsets": "<i8",  # one more than there are problems: where the utterances of each begin
    "utterances/problem": "<i8",
    "utterances/kind": "<u1",  # into KINDS, in the order in which a round has them
    "utterances/round": "<u2",  # 1-based
    "utterances/agent": "<u2",  # 0-based
    "utterances/parsed": "<u1",
    "utterances/prompt_tokens": "<i8",  # 0 where unknown
    "utterances/completion_tokens": "<i8",
    "utterances/finish_reason": "<u1",  # into FINISH_REASONS
}
DATASETS = {f"{name}/data": "<u1" for name in TEXTS} | {f"{name}/offsets": "<i8" for name in TEXTS} | INTEGERS
# Gold labels may be read by evaluation alone, so nothing else opens these.
GOLD = ("problems/gold", "problems/has_gold")

# 128 KiB of text, about a problem's debate, are fetched at once and compress well. 64 KiB of integers.
TEXT_CHUNK = 1 << 17
INTEGER_CHUNK = 1 << 13
GZIP_LEVEL = 4
BLOCK = 32  # problems encoded or decoded at a time
# The oldest format whose metadata is checksummed throughout; read by every HDF5 since 1.10 (2016).
LIBVER = ("v110", "v110")
MOST = 1000  # agents, and rounds; as in recipes


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What all debates of a store have in common: of a task, by N agents in M rounds, of an iteration's split.

    Attributes
    ----------
    iteration
        1-based; 0 for the untouched base and for imported debates.
    split
        ``"train"`` or ``"eval"``.
    summaries
        Whether agents read summaries before rounds 2..M.
    openings
        :data:`hpcmaf.debate.transcript.Openings` as JSON; empty where nothing stood before any chat.
    grader, sandbox
        Of the :class:`hpcmaf.tasks.grader.Grader` that compares answers; empty for the shipped one.
    weights
        A JSON list of the agents' weights in votes; empty where they are alike.
    aggregate
        ``"judge"`` where a judge's reply stands behind the last answers, else empty.
    """

    task: str
    answer_form: str
    agents: int
    rounds: int
    iteration: int
    split: str
    summaries: bool
    openings: str = ""
    grader: str = ""
    sandbox: str = ""
    weights: str = ""
    aggregate: str = ""


def encode(text: str) -> bytes:
    """UTF-8 that also carries lone surrogates, which model output contains."""
    return text.encode("utf-8", "surrogatepass")


def decode(data: bytes) -> str:
    """Inverse of :func:`encode`."""
    return data.decode("utf-8", "surrogatepass")


def events(info: StoreInfo) -> list[tuple[int, int, int]]:
    """(round, kind, agent) of one problem's utterances, in stored order."""
    order = []
    for round in range(1, info.rounds + 1):
        for kind in (0, 1) if info.summaries and round > 1 else (1,):
            order.extend((round, kind, agent) for agent in range(info.agents))
    return order + [(info.rounds, KINDS.index("judge"), 0)] * (info.aggregate == "judge")


def utterances(transcript: Transcript, info: StoreInfo) -> list[Utterance]:
    """A transcript's utterances in stored order.

    Raises
    ------
    StoreError
        The transcript has not the shape that ``info`` promises.
    """
    ordered = []
    for round, turns in enumerate(transcript.answers, start=1):
        if round > 1 and transcript.summaries:
            ordered.extend(transcript.summaries[round - 2 : round - 1])
        ordered.append(turns)
    ordered += [(transcript.judgement,)] if transcript.judgement else []
    flat = [utterance for turns in ordered for utterance in turns]
    found = [(u.round, KINDS.index(u.kind), u.agent) for u in flat]
    wanted_summaries = info.rounds - 1 if info.summaries else 0
    if found != events(info) or len(transcript.summaries) != wanted_summaries:
        raise StoreError(
            f"problem {transcript.problem.id!r}: its debate has not the {info.agents} agents x {info.rounds} rounds "
            f"{'with' if info.summaries else 'without'} summaries of its store; write it to a store of its own"
        )
    return flat


def write_info(root: h5py.Group, info: StoreInfo) -> None:
    """Put ``info`` into the root attributes; raises StoreError where it has too many agents or rounds."""
    if not (1 <= info.agents <= MOST and 1 <= info.rounds <= MOST):
        raise StoreError(f"a store of {info.agents} agents x {info.rounds} rounds; make both 1 to {MOST}")
    for name, value in {"schema": SCHEMA, "version": VERSION, **asdict(info)}.items():
        # Fixed-length text lies in checksummed metadata; h5py's default, a variable-length string, does not.
        if value != "":  # which no attribute can hold
            root.attrs[name] = np.bytes_(encode(value)) if isinstance(value, str) else np.int64(value)


def read_info(root: h5py.Group, where: str) -> StoreInfo:
    """Read the root attributes; ``where`` names the file in errors.

    Raises
    ------
    StoreError
        Not a debate store, or one of another version.
    """
    types = {field.name: {"str": str, "int": int, "bool": bool}[str(field.type)] for field in fields(StoreInfo)}
    raw = {name: root.attrs[name] for name in ("schema", "version", *types) if name in root.attrs}
    found = {name: decode(value) if isinstance(value, bytes) else value for name, value in raw.items()}
    if (schema := found.pop("schema", None)) != SCHEMA:
        raise StoreError(f"{where}: schema {schema!r} is not {SCHEMA!r}, so it is no debate store; give one of ours")
    if (version := found.pop("version", None)) != VERSION:
        raise StoreError(
            f"{where}: schema version {version} where this program knows {VERSION}; "
            "read it with the version of hpcmaf that wrote it"
        )
    try:
        return StoreInfo(**{name: types[name](value) for name, value in found.items()})
    except (TypeError, ValueError) as error:
        raise StoreError(f"{where}: root attributes are damaged ({error}); delete it and rerun") from error
