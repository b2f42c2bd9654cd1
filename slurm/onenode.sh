#!/bin/bash
#SBATCH --job-name=hpcmaf-onenode
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --nodes=1
#SBATCH --requeue
#SBATCH --signal=B:USR2@180
set -Eeuo pipefail

usage() {
    cat <<'END'
Usage: sbatch [SBATCH OPTION]... slurm/onenode.sh [--profile PROFILE] [OPTION]...
       bash slurm/onenode.sh [--profile PROFILE] [OPTION]...

Runs the whole loop inside one allocation of one node: debates, merge, finetuning
and evaluation for L iterations. Nothing else is submitted. With engine: vllm,
one server per GPU starts once and serves all iterations; it makes room while
agents are trained (generation.while_training).

PROFILE is one of launcher: local. If none is named it is 'onenode', with as many
tasks at once as the allocation has GPUs.

OPTION is any of 'hpcmaf submit --help', such as
  --recipe RECIPE    what to run; a file, or the name of a shipped recipe
  --iters L          number of iterations
  --run NAME         run directory, or a name under runs/

Time running out, or preempted, the run stops and the job goes back into the
queue, to resume; so does the same command. Its log is
hpcmaf-onenode-JOB.log here.

Environment:
  HPCMAF_RECIPE      RECIPE, where --recipe is left out
  HPCMAF_PYTHON      Python that has hpcmaf; left out, the .venv of this folder
                     or of the repository, then the hpcmaf in PATH

Example: sbatch -p gpu --gpus-per-node=4 --cpus-per-task=32 slurm/onenode.sh --recipe my-gsm8k.yaml
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
    for place in "$(readlink -f -- "${BASH_SOURCE[0]}")" "$(readlink -f -- "$original")" \
        "${SLURM_SUBMIT_DIR:-.}/slurm/" "${SLURM_SUBMIT_DIR:-.}/"; do
        if [[ -r ${place%/*}/hpcmaf.sh ]]; then
            printf '%s\n' "${place%/*}/hpcmaf.sh"
            return
        fi
    done
    printf 'error: slurm/hpcmaf.sh: not found; submit from the repository\n' >&2
    return 12
}
shared=$(find_shared)
# shellcheck source-path=SCRIPTDIR source=hpcmaf.sh
source "$shared"
offer_help "$@"
find_hpcmaf
if ! names_profile "$@"; then
    # A task per GPU; another profile has the number itself.
    gpus=${SLURM_GPUS_ON_NODE:-1}
    set -- --profile onenode --set-profile "jobs=$gpus" "$@"
fi

stopped='' child=''
# Slurm's warning before the time limit, and preemption; either may come before there is a child.
trap 'stopped=yes; [[ -z $child ]] || kill -TERM "$child" 2>/dev/null' USR2 TERM
"${hpcmaf[@]}" submit "$@" &
child=$!
[[ -z $stopped ]] || kill -TERM "$child" 2>/dev/null || true
code=0
wait "$child" || code=$?
# A trap ends the first wait; the second one has the exit code.
while kill -0 "$child" 2>/dev/null; do
    code=0
    wait "$child" || code=$?
done
if [[ -n $stopped && $code -ne 0 && -n ${SLURM_JOB_ID:-} ]]; then
    scontrol requeue "$SLURM_JOB_ID" || fail "$code" "cannot go back into the queue; submit again to resume"
fi
exit "$code"
