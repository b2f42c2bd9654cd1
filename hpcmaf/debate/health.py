"""Whether a run learns from debates or from noise: a few values of each stage, and what to change where one is bad."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from hpcmaf.debate.consensus import undecided
from hpcmaf.debate.transcript import Transcript
from hpcmaf.files.publish import Amount, Record

Share = Annotated[float, Field(ge=0, le=1)]


class Value(NamedTuple):
    """How a value is written; from where on it says that a run learns noise, and what to change then."""

    text: str
    bound: float | None = None
    remedy: str = ""


_CUT_OFF = "raise sampling.max_new_tokens, or have task.prompts ask for shorter answers"
_UNPARSABLE = "read 'hpcmaf prompts', set task.answer, or show the form of an answer in examples of task.prompts"
_TIED = "their labels are drawn: raise debate.agents, lower sampling.temperature, or take easier problems"
_UNDECIDED = "read 'hpcmaf prompts', or take the vote"


class Health(Record):
    """What debates came to; ``None`` is what a file of an earlier version lacks, and votes of a single agent."""

    # Of all texts, those that ended at the limit on tokens.
    cut_off: Annotated[Share | None, Value("of texts cut off", 0.2, _CUT_OFF)] = None
    unparsable: Annotated[Share | None, Value("of last responses without an answer", 0.2, _UNPARSABLE)] = None
    # Of the last round's.
    tied: Annotated[Share | None, Value("of votes tied", 0.5, _TIED)] = None
    unanimous: Annotated[Share | None, Value("of votes unanimous")] = None
    # So that the vote counts.
    undecided: Annotated[Share | None, Value("of the judge's replies none of the answers", 0.2, _UNDECIDED)] = None
    # Generated ones, thoughts included.
    tokens_per_answer: Annotated[Amount | None, Value("tokens per answer")] = None


VALUES = {
    name: value for name, field in Health.model_fields.items() for value in field.metadata if isinstance(value, Value)
}
_FEW = (
    "raise task.train, or see which were cut off (sampling.max_new_tokens), too long (training.max_length) "
    "or not mixed in (selection.mix)"
)
SAMPLES = Value("training samples", 10, _FEW)


class Tally:
    """Adds up what debates came to, one by one."""

    def __init__(self) -> None:
        self._parts: Counter[str] = Counter()
        self._wholes: Counter[str] = Counter()

    def add(self, transcript: Transcript, agreeing: int = 0, tied: bool = False) -> None:
        """Count a debate, how many agents' last answers are its vote's, and whether that was drawn among tied ones."""
        texts = transcript.completions
        answers = [turn for turn in texts if turn.kind == "answer"]
        # A round that was not held has no responses, nor has STaR's second where the first was right.
        last = [next((turn for turn in reversed(own) if turn.prompt), own[-1]) for own in zip(*transcript.answers)]
        voted = len(last) > 1
        judged = bool(transcript.judgement and transcript.judgement.prompt)
        for name, part, whole in (
            ("cut_off", sum(turn.cut_off for turn in texts), len(texts)),
            ("unparsable", sum(turn.answer is None for turn in last), len(last)),
            ("tied", tied, voted),
            ("unanimous", voted and agreeing == len(last), voted),
            ("undecided", undecided(transcript), judged),
            ("tokens_per_answer", sum(turn.completion_tokens for turn in answers), len(answers)),
        ):
            self._parts[name] += part
            self._wholes[name] += whole

    def values(self, votes: bool = True) -> dict[str, float]:
        """What :class:`Health` holds, as far as there is anything to divide; without votes where none were counted."""
        known = {name: whole for name, whole in self._wholes.items() if votes or name not in ("tied", "unanimous")}
        return {name: self._parts[name] / whole for name, whole in known.items() if whole}


def evaluated(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a ``metrics.json`` of any version."""
    found = Health.model_validate(dict(metrics)).model_dump(exclude_none=True)
    if metrics["accuracy"].keys() <= {"answer"}:
        found.pop("tied", None)  # of a single answer
    return found


def selected(selection: Mapping[str, Any], agents: Iterable[str]) -> dict[str, Any]:
    """Values of a ``selection.json`` of any version: also ``samples`` by agent, of those that are trained."""
    datasets, samples = selection["datasets"], dict[str, int]()
    for agent in (agent for agent in agents if agent in datasets):
        trained = datasets[agent].get("samples")
        samples[agent] = datasets[agent]["kept"] if trained is None else trained
    return Health.model_validate(selection.get("health") or {}).model_dump(exclude_none=True) | {"samples": samples}


def scarce(found: Mapping[str, Any]) -> dict[str, int]:
    """Agents that train on next to nothing, with the number of their samples."""
    return {agent: count for agent, count in found.get("samples", {}).items() if count < SAMPLES.bound}


def written(name: str, value: float) -> str:
    """A value in figures."""
    return f"{value:,.0f}" if name == "tokens_per_answer" else f"{value:.1%}"


def health_line(found: Mapping[str, Any]) -> str:
    """Values in one line."""
    words = [f"{written(name, found[name])} {value.text}" for name, value in VALUES.items() if name in found]
    if samples := found.get("samples", {}).values():
        counts = dict.fromkeys(f"{count:,}" for count in (min(samples), max(samples)))
        words.append(f"{' to '.join(counts)} samples per agent")
    return ", ".join(words)


def health_warnings(stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Which values of some stages, by a name for each, are beyond their limits, and what to change: a line each."""
    for name, (text, bound, remedy) in VALUES.items():
        over = {stage: one[name] for stage, one in stages.items() if bound and one.get(name, 0) > bound}
        if bad := [f"{stage}: {written(name, value)}" for stage, value in over.items()]:
            yield f"more than {written(name, bound)} {text} ({', '.join(bad)}); {remedy}"
    for stage, found in stages.items():
        if few := scarce(found):
            counts = ", ".join(f"{agent}: {count or 'none'}" for agent, count in few.items())
            yield f"{stage}: fewer than {SAMPLES.bound} {SAMPLES.text} ({counts}); {SAMPLES.remedy}"


def health_report(stage: str, found: Mapping[str, Any]) -> str:
    """A stage's values for its log: one line, and one more for each warning."""
    warnings = [f"warning: {line}" for line in health_warnings({stage: found})]
    return "\n".join([f"{stage}: {health_line(found)}", *warnings])
