# shellcheck shell=bash
# Sourced by the scripts beside it: what they share. Holds no settings; what
# your site wants stands in a profile.

fail() {
    printf 'error: %s\n' "$2" >&2
    exit "$1"
}

# Prints the script's usage where one of the words asks for it.
offer_help() {
    local word
    for word in "$@"; do
        if [[ $word == -h || $word == --help ]]; then
            usage
            exit
        fi
    done
}

# Whether the words name a profile.
names_profile() {
    local word
    for word in "$@"; do
        [[ $word != --profile && $word != --profile=* ]] || return 0
    done
    return 1
}

# Sets the array `hpcmaf` to the command that starts it, for the scripts to use.
# shellcheck disable=SC2034
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
    command -v hpcmaf >/dev/null ||
        fail 12 "hpcmaf: not found; set HPCMAF_PYTHON to the Python that has it, or submit from a folder with its .venv"
    hpcmaf=(hpcmaf)
}
