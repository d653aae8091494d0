# Debian's repositories, as the machine that we are on is configured, and kernels from them. Sourced.
# shellcheck shell=bash
# shellcheck source=hack/cache.sh
. "$(dirname "${BASH_SOURCE[0]}")/../cache.sh"

# debian_sources RELEASE: the sources.list of that release, from where bookworm comes from here.
debian_sources() {
    local site
    # shellcheck disable=SC2016 # apt expands it
    site=$(apt-get indextargets --format '$(SITE) $(ORIGIN) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
        sed -n 's/^\([^ ]*\) Debian bookworm main$/\1/p' | head -n 1)
    [ -n "$site" ] || die "apt knows no Debian 12: bookworm main is missing from its sources"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$site" "$1"
}

# apt_of RELEASE COMMAND...: as the machine has it for its own release; another by lists of its own, in the cache.
apt_of() {
    local release=$1 lists=$cache/apt-$1 command=$2 where=()
    shift 2
    if [ "$release" != bookworm ]; then
        mkdir -p "$lists/partial"
        [ -s "$lists/sources.list" ] || debian_sources "$release" >"$lists/sources.list"
        where=(-o "Dir::Etc::SourceList=$lists/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o "Dir::State::Lists=$lists")
    fi
    "$command" -q "${where[@]}" -o APT::Sandbox::User=root "$@"
}

# kernel_name RELEASE: the package that the release's present kernel is in.
kernel_name() {
    local show=(apt_of "$1" apt-cache show --no-all-versions linux-image-cloud-amd64) name
    name=$("${show[@]}" 2>/dev/null | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
    if [ -z "$name" ]; then
        apt_of "$1" apt-get update >&2
        name=$("${show[@]}" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
    fi
    [ -n "$name" ] || die "$1 has no linux-image-cloud-amd64"
    printf '%s\n' "$name"
}

# fetch_kernel RELEASE DIRECTORY: unpacked there.
fetch_kernel() {
    local name
    name=$(kernel_name "$1")
    (cd "$2" && { apt_of "$1" apt-get download "$name" ||
        { apt_of "$1" apt-get update && apt_of "$1" apt-get download "$name"; }; } && dpkg-deb -x ./*.deb .)
}
