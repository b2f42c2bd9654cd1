#!/bin/bash
#SBATCH --job-name=hpcmaf-iterate
#SBATCH --output=%x-%j.log
#SBATCH --open-mode=append
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
set -Eeuo pipefail

usage() {
    cat <<'END'
Usage: sbatch [SBATCH OPTION]... slurm/iterate.sh [--profile PROFILE] [OPTION]...
       bash slurm/iterate.sh [--profile PROFILE] [OPTION]...

Submits the whole loop: debates, merge, finetuning and evaluation for L iterations,
as jobs that PROFILE describes. Takes one CPU for some seconds; the jobs submit
what comes next.

OPTION is any of 'hpcmaf submit --help', such as
  --recipe RECIPE    what to run; a file, or the name of a shipped recipe
  --iters L          number of iterations
  --run NAME         run directory, or a name under runs/
  --dry-run          show jobs, batch scripts and their cost, and submit nothing

The same command resumes a run that was stopped. Where jobs may not submit
jobs, use the second form on a login node, again whenever a stage has ended.

Account and partition of this first job are sbatch's options, those of all other
jobs PROFILE's (slurm/README.md). Its log is hpcmaf-iterate-JOB.log here.

Environment:
  HPCMAF_PROFILE     PROFILE, where --profile is left out
  HPCMAF_RECIPE      RECIPE, where --recipe is left out
  HPCMAF_PYTHON      Python that has hpcmaf; left out, the .venv of this folder
                     or of the repository, then the hpcmaf in PATH

Example: sbatch -A lab -p cpu slurm/iterate.sh --recipe arithmetic/micro --profile mysite.yaml --iters 5
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
    # The default runs everything right here, which is not meant on a cluster.
    [[ -n ${HPCMAF_PROFILE:-} ]] ||
        fail 2 "name your site with --profile or in HPCMAF_PROFILE, such as --profile h100; see --help"
fi
exec "${hpcmaf[@]}" submit "$@"
