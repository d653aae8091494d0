# Where hack/ keeps what it has built, and how its scripts speak. Sourced by them.
# shellcheck shell=bash

hack=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(dirname "$hack")
cache=${CORTEN_CACHE:-${HOME:?HOME is not set: set it, or CORTEN_CACHE}/.cache/corten}
cache_bin=$cache/bin
export hack repo cache cache_bin

say() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
}

die() {
    say "$*"
    exit 1
}

# The directory of the test images that the present scripts make; a change of them makes it another.
images_dir() {
    local key
    key=$(cat "$hack"/images/* | sha256sum)
    printf '%s/images-%s\n' "$cache" "${key:0:12}"
}
