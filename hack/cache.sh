# Where hack/ keeps what it has built, and how its scripts speak. Sourced by them.
# shellcheck shell=bash

# What scripts, tools and tests take for granted, whatever the caller's shell has: files that other users may read, words
# and numbers of one language, and the folder target/. A temporary path ends up in sockets' names, in URLs and in the files of
# tools that quote none.
umask 022
export LC_ALL=C.UTF-8
unset CDPATH LANGUAGE CARGO_TARGET_DIR CARGO_BUILD_TARGET_DIR
[[ ${TMPDIR:-/tmp} =~ ^/[A-Za-z0-9._/-]{1,40}$ ]] || export TMPDIR=/tmp

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
