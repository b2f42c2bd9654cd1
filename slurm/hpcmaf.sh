# shellcheck shell=bash
# Shared by the scripts beside it, which source it: finding hpcmaf, and running
# one stage with it. Holds no settings; what your site wants stands in a profile.

fail() {
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

# Sets the array `hpcmaf` to the command that starts it.
find_hpcmaf() {
    local place root
    root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
    if [[ -n ${HPCMAF_PYTHON:-} ]]; then
        hpcmaf=("$HPCMAF_PYTHON" -m hpcmaf)
        return
    fi
    for place in "${SLURM_SUBMIT_DIR:-$PWD}" "$PWD" "$root"; do
        if [[ -x $place/.venv/bin/hpcmaf ]]; then
            hpcmaf=("$place/.venv/bin/hpcmaf")
            return
        fi
    done
    if ! command -v hpcmaf >/dev/null; then
        fail 12 "hpcmaf: not found; set HPCMAF_PYTHON to the Python that has it, or submit from a folder with its .venv"
    fi
    hpcmaf=(hpcmaf)
}

# run_stage KIND RUN ITERATION [--task TASK]...: in place of this shell, so
# that Slurm's signals reach hpcmaf itself.
run_stage() {
    local kind=$1 words=() tasks=() start=()
    shift
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
    ((${#words[@]} == 2)) || fail 2 "give a run and an iteration, such as: $kind.sh five-agents 1; see --help"
    if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
        ((${#tasks[@]} == 0)) || fail 2 "--task: the job array says which task; leave one of them out"
        tasks=("$SLURM_ARRAY_TASK_ID")
    fi
    find_hpcmaf
    if [[ $kind == finetune ]] && ((${SLURM_JOB_NUM_NODES:-1} > 1)); then
        # srun does not take --cpus-per-task over by itself.
        export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}"
        start=(srun --ntasks-per-node=1 --kill-on-bad-exit=0 --wait=45)
    fi
    exec ${start[@]+"${start[@]}"} "${hpcmaf[@]}" stage "${words[0]}" "${words[1]}/$kind" ${tasks[@]+"${tasks[@]}"}
}
