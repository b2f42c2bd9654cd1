"""The ``slurm:`` section of a profile: nothing in it can become a line of shell by accident."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcmaf.config.profile import Profile, load_profile
from hpcmaf.errors import ConfigError
from hpcmaf.launch.slurm.commands import clean_environment
from hpcmaf.launch.slurm.script import parameters

TEXT = "launcher: slurm\nslurm:\n  partition: gpu\n"


def load(folder: Path, slurm: str) -> Profile:
    path = folder / "site.yaml"
    path.write_text(f"{TEXT}{slurm}\n")
    return load_profile(str(path))


def refused(folder: Path, slurm: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, slurm)
    message = str(caught.value)
    assert message.startswith(f"{folder / 'site.yaml'}: slurm") and "\n" not in message
    return message


WORDS = ("account", "qos", "constraint", "gpu_type")


@pytest.mark.parametrize("key", WORDS)
@pytest.mark.parametrize(
    "value", ["a b", "a;b", "$(id)", "`id`", "a\\nb", "a\\n#SBATCH --uid=0", "'", "a>b", "", "é", "a\\tb", "-x\\r"]
)
def test_shell_and_line_breaks_are_refused(tmp_path: Path, key: str, value: str) -> None:
    assert f"slurm.{key}: " in refused(tmp_path, f'  {key}: "{value}"')


@pytest.mark.parametrize(
    "value", ["h100", "[h100*2|a100]&ib", "node[1-4,7]", "gpu:h100", "proj/team@x", "a100_80gb", "3"]
)
def test_what_names_are_written_with_is_let_through_and_setup_is_shell_on_purpose(tmp_path: Path, value: str) -> None:
    lines = ['module load cuda && export A="$B"', "source ~/x.sh"]
    cluster = load(tmp_path, f'  constraint: "{value}"\n  setup: {lines}').cluster
    assert (cluster.constraint, cluster.setup) == (value, lines)


SECTIONS = ("generation", "finetuning", "merge", "gate")
# Options under which jobs cannot be followed.
UNFOLLOWED = "account mem time clusters uid gid hold test-only parsable quiet help usage version".split()


@pytest.mark.parametrize(
    ("slurm", "said"),
    [
        ("  partitions: gpu", "slurm.partitions: unknown key; did you mean 'partition'?"),
        ("  generation: {gpu: 1}", "slurm.generation.gpu: unknown key; did you mean"),
        ("  generation: {gpus: -1}", "slurm.generation.gpus"),
        ("  gpu_option: gpus", "slurm.gpu_option"),
        ("  generation: {nodes: 2}", "only finetuning runs on several nodes"),
        ("  signal_seconds: 7200\n  generation: {minutes: 60}", "signal_seconds: no less than the 60 minutes"),
        ("  max_array_size: 0", "slurm.max_array_size"),
        ("  account: 42", "slurm.account"),
        *((f'  {one}: {{partition: "x y"}}', f"slurm.{one}.partition: 'x y' holds a character") for one in SECTIONS),
        # Setup takes single lines, and so does Python.
        *((f'  setup: ["{line}"]', "setup") for line in ("two\\nlines", "a\\u0000", "bell\\u0007", "cr\\r")),
        ('  python: "two\\nlines"', "python"),
        # What hpcmaf sets itself, or could not follow its jobs with.
        *((f"  options: {{{name}: true}}", f"--{name} is not for options; leave it out") for name in UNFOLLOWED),
        ("  gate: {options: {clusters: gpu}}", "--clusters is not for options"),
        # Options that mean nothing.
        ('  options: {"--comment": x}', "write it as in --comment, without dashes: comment"),
        ('  options: {"mail type": x}', "is no sbatch option"),
        ('  options: {"x\\n#SBATCH --uid": "0"}', "is no sbatch option"),
        ("  options: {comment: false}", "leave it out"),
        ('  options: {comment: "two\\nlines"}', "not one printable line"),
        ("  options: {comment: [a]}", "options.comment"),
        ("  options: {comment: null}", "options.comment"),
    ],
)
def test_what_is_refused_is_named(tmp_path: Path, slurm: str, said: str) -> None:
    assert said in refused(tmp_path, slurm)


def test_a_slurm_profile_needs_its_section(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    path.write_text("launcher: slurm\n")
    with pytest.raises(ConfigError, match="site.yaml: slurm: missing"):
        load_profile(str(path))


def test_what_an_enclosing_job_leaves_behind_and_what_narrows_answers_is_taken_out() -> None:
    kept = {"PATH": "/bin", "SLURM_CONF": "/etc/slurm.conf", "SLURM_CONF_SERVER": "ctl:6817", "SLURM_JWT": "token"}
    jobs = (
        "SLURM_JOB_ID SLURM_CPUS_PER_TASK SLURM_MEM_PER_NODE SLURMD_NODENAME SBATCH_PARTITION SRUN_DEBUG SALLOC_QOS "
        "PMI_RANK PMIX_RANK SUBMITIT_EXECUTOR"
    )
    narrows = "SQUEUE_PARTITION SACCT_FORMAT SCANCEL_STATE SINFO_PARTITION SCONTROL_FORMAT SQUEUE_USERS"
    assert clean_environment(kept | dict.fromkeys(f"{jobs} {narrows}".split(), "x")) == kept


# --- GPUs that are asked for and used


GPUS = ["slurm.finetuning.gpus=4", "slurm.finetuning.cpus=8"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("finetuning.processes=8", "finetuning.processes: 8 GPUs, but slurm.finetuning.gpus asks for 4"),
        ("finetuning.processes=8 finetuning.device=auto", "finetuning.processes: 8 GPUs"),
        ("slurm.finetuning.gpus=0", "finetuning.device: cuda, but slurm.finetuning.gpus asks for none"),
        ("slurm.generation.gpus=0", "generation.device: cuda, but slurm.generation.gpus asks for none"),
        ("slurm.generation.gpus=0 generation.device=auto generation.tensor_parallel=2", "tensor_parallel: 2 GPUs"),
        # On CPUs they are as many as one likes.
        ("", ""),
        ("finetuning.processes=8 finetuning.device=cpu", ""),
        ("finetuning.processes=8 finetuning.device=auto slurm.finetuning.gpus=0", ""),
        ("generation.device=auto slurm.generation.gpus=0", ""),
    ],
)
def test_processes_for_which_there_are_no_gpus_are_refused(overrides: str, words: str) -> None:
    if not words:
        assert load_profile("h100", [*GPUS, *overrides.split()])
        return
    with pytest.raises(ConfigError) as caught:
        load_profile("h100", [*GPUS, *overrides.split()])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_idle_gpus_are_told_with_what_they_cost() -> None:
    for overrides, words in (
        ("finetuning.processes=1 slurm.finetuning.minutes=120", "finetuning: 3 of 4 GPUs a node are requested and"),
        ("slurm.generation.gpus=2", "generation: 1 of 2 GPUs a node"),
        ("finetuning.device=cpu", "finetuning: 4 of 4 GPUs a node"),
    ):
        [(text, remedy)] = load_profile("h100", [*GPUS, *overrides.split()]).idle_gpus()
        assert text.startswith(words) and remedy.startswith("lower slurm.")
        assert "minutes" not in overrides or text.endswith("up to 6.0 GPU-hours of each job")
    assert load_profile("h100").idle_gpus() == []


# --- sbatch's environment


SHELL = {"SBATCH_ACCOUNT": "lab", "SBATCH_PARTITION": "fast", "SBATCH_QOS": "long", "SBATCH_RESERVATION": "course"}
BARE = [f"slurm.{key}=null" for key in ("account", "partition", "qos")]


def test_what_a_shell_says_to_sbatch_fills_in_what_a_profile_leaves_out() -> None:
    own = ["slurm.account=mine", "slurm.partition=slow", "slurm.qos=short", "slurm.options={reservation: own}"]
    for named, expected in ((BARE, [*SHELL.values()]), (own, ["mine", "slow", "short", "own"])):
        found = load_profile("h100", [*named, "slurm.gate.partition=cpu"], SHELL)
        cluster = found.cluster
        assert [cluster.account, cluster.partition, cluster.qos, cluster.options["reservation"]] == expected
        assert parameters(found, "generation", name="n")["account"] == expected[0]
        assert cluster.gate.partition == "cpu"
    # Inside a job they are those of the job.
    assert load_profile("h100", BARE, SHELL | {"SLURM_JOB_ID": "7"}) == load_profile("h100", BARE)
    with pytest.raises(ConfigError, match="SBATCH_"):
        load_profile("h100", BARE, {"SBATCH_ACCOUNT": "lab; rm -rf"})
