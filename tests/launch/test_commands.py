"""What Slurm's clients say, told apart: a controller that is away, a request that is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcmaf.errors import SlurmError
from hpcmaf.launch.slurm.commands import Job, call, job_id, sbatch
from hpcmaf.launch.slurm.refusals import (
    ControllerAbsentError,
    DependencyError,
    LaterError,
    NoNodeError,
    RefusedError,
    SubmitLimitError,
)
from tests.launch.conftest import SlurmSays

# As clients of Slurm 22.05 wrote them while their controller was killed, restarted or too busy.
AWAY = [
    "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation",
    "squeue: slurm_load_jobs error: Zero Bytes were transmitted or received",
    "sbatch: slurm_msg_sendto: address:port=127.0.0.1:19088 msg_type=4003: Unexpected missing socket error\n"
    "sbatch: error: Batch job submission failed: Unexpected missing socket error",
    "sbatch: error: Batch job submission failed: Message receive failure",
    "scancel: error: Kill job error on job id 7: Slurm backup controller in standby mode",
    # munge, name services, networks and file systems.
    "squeue: error: If munged is up, restart with --num-threads=10\n"
    "squeue: error: Munge encode failed: Failed to access "
    '"/run/munge/munge.socket.2": No such file or directory\nsqueue: error: slurm_send_node_msg: auth_g_create: '
    "REQUEST_JOB_INFO has authentication error\nslurm_load_jobs error: Protocol authentication error",
    "sbatch: error: Munge decode failed: Invalid credential\nsbatch: error: Batch job submission failed: "
    "Invalid authentication credential",
    "sbatch: error: resolve_ctls_from_dns_srv: res_nsearch error: Host name lookup failure\n"
    "sbatch: error: fetch_config: DNS SRV lookup failed\nsbatch: fatal: Could not establish a configuration source",
    "squeue: error: get_addr_info: getaddrinfo() failed: Temporary failure in name resolution\n"
    'squeue: error: Unable to resolve "head": Host name lookup failure',
    "sbatch: error: Batch job submission failed: No route to host",
    "squeue: error: slurm_load_jobs error: Network is unreachable",
    "sbatch: error: Batch job submission failed: Transport endpoint is not connected",
    "sbatch: error: Batch job submission failed: I/O error writing script/environment to file",
    "sbatch: error: Slurm temporarily unable to accept job, sleeping and retrying",
    "sacct: error: Database is busy or waiting for lock from other user.",
    "sbatch: error: Batch job submission failed: Unspecified error",
    "sbatch: error: s_p_parse_file: unable to status file /etc/slurm/slurm.conf: No such file or directory, retrying\n"
    "sbatch: fatal: Unable to process configuration file",
    "sbatch: error: fork: Cannot allocate memory",
    'sbatch: error: get_addr_info: getaddrinfo() failed: Unknown host "head"',
    "sbatch: error: Batch job submission failed: Invalid job credential",
    "sbatch: error while loading shared libraries: libslurm.so: cannot open shared object file: No such file",
    "squeue: error: unpackmem_xmalloc: Buffer to be unpacked is too large",
]
LATER = [
    "sbatch: error: Batch job submission failed: Required partition not available (inactive or drain)",
    "sbatch: error: Batch job submission failed: Requested partition configuration not available now",
    "sbatch: error: Batch job submission failed: Required node not available (down, drained or reserved)",
    "sbatch: error: Batch job submission failed: Requested operation is presently disabled",
    "sbatch: error: Batch job submission failed: Requested nodes are busy",
    "sbatch: error: Batch job submission failed: Requested reservation not usable now",
    "sbatch: error: Batch job submission failed: Licenses not available",
    "sbatch: error: QOSMaxGRESPerUser\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)",
    "sbatch: error: AssocGrpCPUMinutesLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS "
    "policy (job submit limit, user's size and/or time limits)",
]
NAMES = ("AssocMaxSubmitJobLimit", "QOSMaxSubmitJobPerUserLimit", "AssocGrpSubmitJobsLimit", "MaxSubmitJobsPerUser")
LIMITS = [
    f"sbatch: error: {limit}\nsbatch: error: Batch job submission failed: Job violates accounting/QOS policy "
    "(job submit limit, user's size and/or time limits)"
    for limit in NAMES
] + [
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size "
    "and/or time limits)",
    "sbatch: error: Reached the maximum number of jobs",
    "sbatch: error: You have 1000 jobs, and the limit of submitted jobs is 1000",
]
REFUSED = [
    "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
    "sbatch: error: invalid partition specified: gpus",
    "sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: Batch job submission failed: Job violates "
    "accounting/QOS policy (job submit limit, user's size and/or time limits)",
    "sbatch: error: You must name a project with --account\n"
    "sbatch: error: Batch job submission failed: Unspecified error",
]


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A client that fails with what lies beside it."""
    program = tmp_path / "sbatch"
    program.write_text('#!/bin/sh\ncat "$0.said" >&2\nexit 1\n')
    program.chmod(0o755)
    return program


UNKNOWN = [
    "sbatch: error: the moon is full",
    "sbatch: error: Unable to open file submission.sh",
    "sbatch: error: The project is used up\nsbatch: error: Batch job submission failed: Unspecified error",
]
KINDS = {
    ControllerAbsentError: AWAY,
    LaterError: LATER,
    SubmitLimitError: LIMITS,
    RefusedError: REFUSED,
    NoNodeError: ["sbatch: error: Batch job submission failed: Requested node configuration is not available"],
    DependencyError: ["sbatch: error: Batch job submission failed: Job dependency problem"],
    SlurmError: UNKNOWN,
}


@pytest.mark.parametrize(("said", "kind"), [(said, kind) for kind, texts in KINDS.items() for said in texts])
def test_what_a_client_says_is_told_apart(client: Path, said: str, kind: type[SlurmError]) -> None:
    """What to wait for, what ends by itself, what is final, and what nobody knows."""
    client.with_name("sbatch.said").write_text(said + "\n")
    with pytest.raises(SlurmError) as caught:
        call([str(client)], seconds=10)
    assert type(caught.value) is kind


@pytest.mark.parametrize(("mode", "text", "said"), [(0o644, "#!/bin/sh\n", "denied"), (0o755, "exit 0\n", "format")])
def test_a_client_that_cannot_be_started_is_one_line(tmp_path: Path, mode: int, text: str, said: str) -> None:
    program = tmp_path / "squeue"
    program.write_text(text)
    program.chmod(mode)
    with pytest.raises(RefusedError, match=f"{said}.*; run this where Slurm's commands are"):
        call([str(program)], seconds=10)


@pytest.mark.parametrize(
    ("answer", "id"),
    [
        ("7001\n", "7001"),
        ("7001;gpu\n", "7001"),
        ("Kerberos ticket of 10 hours\nforwarded\n7001\n", "7001"),
        ("7001\nGoodbye.\n", "7001"),
        ("10 jobs in your queue\n42\n  7001;test  \n", "7001"),
        ("Submitted batch job 7001\n", "7001"),
        ("Quota: 5 GB\nSubmitted batch job 7001 on cluster gpu\n", "7001"),
        ("no such thing\n", None),
        ("", None),
    ],
)
def test_the_id_is_found_among_what_wrappers_say(answer: str, id: str | None) -> None:
    assert job_id(answer) == id


def test_where_sbatch_tells_no_id_the_queue_is_asked_by_name(slurm_says: SlurmSays) -> None:
    calls = slurm_says(sbatch="Welcome!\n", squeue="7001|N/A|PENDING|None||mine|N/A|N/A\nbanner\n")
    assert sbatch(Path("x.sh"), "mine", seconds=0.5, patience=60.0) == "7001"
    with pytest.raises(SlurmError, match="no job's id in its answer: Welcome!"):
        sbatch(Path("x.sh"), "other", seconds=0.5, patience=60.0)
    assert calls.read_text().count("sbatch ") == 2, "what was heard is not said twice"
    with (calls.parent / "bin" / "sbatch").open("a") as wrapper:
        wrapper.write("exit 1\n")
    assert sbatch(Path("x.sh"), "mine", seconds=0.5, patience=60.0) == "7001", (
        "a wrapper may fail though sbatch did not"
    )
    with pytest.raises(SlurmError, match="Welcome!"):
        sbatch(Path("x.sh"), "other", seconds=0.5, patience=60.0)


@pytest.mark.parametrize("state", ["EXPEDITING", "REVOKED", "POWER_UP_NODE", "RUNNING", "COMPLETING", "STOPPED"])
def test_a_state_that_nobody_knows_is_alive(state: str) -> None:
    for one, (live, running) in {state: (True, True), "FAILED": (False, False), "PENDING": (True, False)}.items():
        job = Job("7", None, "n", one)
        assert (job.live, job.running) == (live, running)


def test_jobs_that_slurm_held_are_told_from_those_that_people_did() -> None:
    by_slurm = ("launch failed requeued held", "launch_failed_requeued_held", "JobHoldMaxRequeue")
    for reason in (*by_slurm, "user env retrieval failed requeued held"):
        assert Job("7", None, "n", "PENDING", reason).held
    for reason in ("job_requeued_in_held_state", "JobHeldUser", "Priority"):
        assert not Job("7", None, "n", "PENDING", reason).held
