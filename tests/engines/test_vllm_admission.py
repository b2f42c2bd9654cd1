"""Who is next, and who is worth having in the weights."""

from __future__ import annotations

from pathlib import Path

from hpcmaf.engines.vllm_admission import Admission
from hpcmaf.engines.vllm_memory import spare_memory
from hpcmaf.engines.vllm_messages import Made, Row


def rows(model: str | None, count: int, first: int = 0, prompt: int = 100, tokens: int = 50) -> list[Row]:
    return [Row(first + n, [1] * prompt, model, 0, 1.0, 1.0, tokens, False) for n in range(count)]


def done(row: Row, tokens: int = 50) -> Made:
    return Made(row.id, (1,) * tokens, None, None)


def test_an_agent_has_its_turn_to_the_end() -> None:
    """Others begin when there is nobody left of it, those with most to do first; no place stays empty."""
    admission = Admission(seats=4, tokens=10_000)
    mixed = [row for trio in zip(rows("a", 30), rows("b", 30, 100), rows(None, 30, 200), strict=True) for row in trio]
    admission.add([*mixed, *rows("b", 5, 400)])
    order: list[str | None] = []
    while admission:
        taken = admission.admit()
        order += [row.model for row in taken]
        admission.finished(map(done, taken))
        admission.worth_folding()
    assert len(order) == 95
    assert sum(a != b for a, b in zip(order, order[1:], strict=False)) == 2
    assert order.index("b") < order.index("a"), "it had more to do"


def test_no_more_is_taken_than_the_cache_holds() -> None:
    admission = Admission(seats=100, tokens=1000)
    admission.add(rows("a", 20, prompt=150, tokens=40))
    first = admission.admit()
    assert len(first) == 5 and admission.admit() == []
    admission.finished([done(first[0], 40)])
    assert len(admission.admit()) == 1
    # One request alone is taken, however long: vLLM knows what to do with it.
    large = Admission(seats=8, tokens=100)
    large.add(rows("a", 2, prompt=500))
    assert len(large.admit()) == 1 and len(large) == 1


def test_prompts_are_taken_together() -> None:
    """Every few steps, in the order of arrival, and no more than there are places; nobody idle waits."""
    admission = Admission(seats=4, tokens=10_000, by_agent=False, every=3)
    mixed = [row for pair in zip(rows("a", 4), rows(None, 4, 100), strict=True) for row in pair]
    admission.add(mixed)
    held = admission.admit()
    assert held == mixed[:4], "an engine with nothing to do begins at once"
    taken: list[list[Row]] = []
    for _ in range(5):
        admission.finished([done(held.pop(0))])
        taken.append(admission.admit())
        held += taken[-1]
    assert taken == [[], mixed[4:6], [], [], mixed[6:]]
    assert not admission


def test_answers_are_expected_to_be_as_long_as_those_before() -> None:
    """Not as long as they may become."""
    admission = Admission(seats=100, tokens=2000)
    admission.add(rows("a", 60, prompt=10, tokens=2000))
    before = len(admission.admit())
    admission.finished(done(row, 20) for row in rows("a", before))
    assert len(admission.admit()) > 4 * before


def test_weights_change_for_much_work_only() -> None:
    admission = Admission(seats=10, tokens=1_000_000)
    admission.add(rows("a", 1000))
    assert admission.worth_folding() == "a"
    admission.add(rows("b", 1100, 2000))
    admission.admit()
    assert admission.worth_folding() == "a", "hardly more work is no reason"
    admission.add(rows("b", 1200, 4000))
    assert admission.worth_folding() == "b"
    little = Admission(seats=10, tokens=1_000_000)
    little.add(rows("a", 20))
    assert little.worth_folding() is None


def test_spare_memory_is_that_of_the_narrowest_group(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal: 90 kB\nMemAvailable:   80000 kB\n")
    assert spare_memory(proc, groups) == 80_000 * 1024, "without groups"
    (proc / "self" / "cgroup").write_text("3:memory:/old\n0::/slurm/job_7/step\n")
    job = groups / "slurm" / "job_7"
    (job / "step").mkdir(parents=True)
    assert spare_memory(proc, groups) == 80_000 * 1024, "groups without limits"
    for name, text in (("max", "50000000"), ("current", "30000000"), ("stat", "anon 3\ninactive_file 5000000\n")):
        (job / f"memory.{name}").write_text(text)
    (job / "step" / "memory.max").write_text("max\n")
    assert spare_memory(proc, groups) == 25_000_000
