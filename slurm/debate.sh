#!/bin/bash
#SBATCH --job-name=hpcmaf-debate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
set -Eeuo pipefail

usage() {
    cat <<'END'
Usage: sbatch [SBATCH OPTION]... slurm/debate.sh RUN ITERATION [--task TASK]...
       bash slurm/debate.sh RUN ITERATION [--task TASK]...

Holds the training debates of one iteration: a task per shard of the problems.

In a job array, each job runs the task of its index; otherwise all tasks that are
not done run one after another, or those that --task names by number or by name
(0 or 00000).

RUN is a run directory or a name under runs/, planned by 'hpcmaf plan --write' or
by 'hpcmaf submit'. Tasks that are done are left as they are, and so are those
that another process is at work on. Time running out, a task saves what it has;
the same command goes on from there. The log is hpcmaf-debate-JOB.log here.

Environment:
  HPCMAF_PYTHON    Python that has hpcmaf; left out, the .venv of this folder
                   or of the repository, then the hpcmaf in PATH

Example: sbatch -p gpu --gpus-per-node=1 --array=0-3 slurm/debate.sh five-agents 1
END
}

# sbatch runs a copy of this script: what it shares with the others lies beside
# the original, or below the folder it was submitted from.
find_shared() {
    local original='' place
    if [[ -n ${SLURM_JOB_ID:-} ]]; then
        original=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null | sed -n 's/^ *Command=//p') || original=''
        # The path and then its arguments, and blanks in both: a file up to where?
        original=${original%%$'\n'*}
        while [[ ! -f $original && $original == *' '* ]]; do original=${original% *}; done
    fi
    # Either may be a link to the script.
    for place in "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")" "$(dirname -- "$(readlink -f -- "$original")")" \
        "${SLURM_SUBMIT_DIR:-.}/slurm" "${SLURM_SUBMIT_DIR:-.}"; do
        if [[ -r $place/hpcmaf.sh ]]; then
            printf '%s\n' "$place/hpcmaf.sh"
            return
        fi
    done
    printf 'error: slurm/hpcmaf.sh: not found; submit from the repository\n' >&2
    return 12
}

for word in "$@"; do
    if [[ $word == -h || $word == --help ]]; then
        usage
        exit
    fi
done
shared=$(find_shared)
# shellcheck source-path=SCRIPTDIR source=hpcmaf.sh
source "$shared"
run_stage debate "$@"
