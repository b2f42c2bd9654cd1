#!/bin/bash
#SBATCH --job-name=hpcmaf-stage
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR2@120
set -Eeuo pipefail

usage() {
    cat <<'END'
Usage: sbatch [SBATCH OPTION]... slurm/stage.sh KIND RUN ITERATION [--task TASK]...
       bash slurm/stage.sh KIND RUN ITERATION [--task TASK]...

Runs one stage of one iteration (0: the untouched base, which is evaluated). KIND is
  debate     training debates; a task per shard of the problems
  merge      merge them and select every agent's training data; one task, named all
  finetune   train the agents, a task each; in a job of several nodes all of them
             train an agent together, with as many processes each as the profile has
  eval       evaluation debates; a task per shard of the problems
  score      measure the evaluation; one task, named all

In a job array, each job runs the task of its index; otherwise all tasks that are
not done run one after another, or those that --task names by number or by name
(0, 00000, generator-0).

RUN is a run directory or a name under runs/, planned by 'hpcmaf plan --write' or
by 'hpcmaf submit'. Tasks that are done are left as they are, and so are those
that another process is at work on. Time running out, a task saves what it has;
the same command resumes there. The log is hpcmaf-stage-JOB.log here; sbatch -J
names job and log otherwise.

Environment:
  HPCMAF_PYTHON    Python that has hpcmaf; left out, the .venv of this folder
                   or of the repository, then the hpcmaf in PATH

Example: sbatch -p gpu --gpus-per-node=1 --array=0-3 slurm/stage.sh debate five-agents 1
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
words=() tasks=() start=()
while (($#)); do
    case $1 in
    --task)
        (($# > 1)) || fail 2 "--task: needs a task; see --help"
        tasks+=("$2")
        shift
        ;;
    --task=*) tasks+=("${1#--task=}") ;;
    -*) fail 2 "$1: no such option; see --help" ;;
    *) words+=("$1") ;;
    esac
    shift
done
((${#words[@]} == 3)) || fail 2 "give a stage, a run and an iteration, such as: merge five-agents 1; see --help"
if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    ((${#tasks[@]} == 0)) || fail 2 "--task: the job array chooses the task; leave one of them out"
    tasks=("$SLURM_ARRAY_TASK_ID")
fi
if [[ ${words[0]} == finetune ]] && ((${SLURM_JOB_NUM_NODES:-1} > 1)); then
    # srun does not take --cpus-per-task over by itself.
    export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"
    start=(srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=45)
fi
# In place of this shell, so that Slurm's signals reach hpcmaf itself.
exec ${start[@]+"${start[@]}"} "${hpcmaf[@]}" stage "${words[1]}" "${words[2]}/${words[0]}" ${tasks[@]+"${tasks[@]}"}
