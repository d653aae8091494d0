# What hack/vm's machines start from, made once a kernel and kept in the cache: a kernel with its modules, an initial
# file system of busybox, one that only finds a system's root, and that root. Sourced by hack/vm.
# shellcheck shell=bash
# shellcheck source=hack/machine/debian.sh
. "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

# And what they need. ext4 is in the kernel.
busybox_modules=(virtio_pci virtio_blk xfs overlay)
system_modules=(virtio_pci virtio_blk)

# Sets base, and for a system root_disk.
make_bases() {
    local release
    case ${kernel:?} in
        6.1) release=bookworm ;;
        backports) release=bookworm-backports ;;
        *) die "--kernel $kernel: give 6.1 or backports" ;;
    esac
    mkdir -p "$cache"
    exec 8>"$cache/lock.vm"
    flock 8
    base=$cache/vm-$(key <(kernel_name "$release") "$hack"/machine/{base.sh,debian.sh,init,switch})
    [ -d "$base" ] || build_base "$release"
    root_disk=$cache/vm-root-$(key "$hack"/machine/{root,debian.sh,container.cil})
    [ -z "${system:-}" ] || [ -e "$root_disk" ] || build_root
    exec 8>&-
}

# key FILE...: of what they hold.
key() {
    local sum
    sum=$(cat "$@" | sha256sum)
    printf '%s\n' "${sum:0:12}"
}

build_root() {
    say "making the system's root, $root_disk"
    "$hack/machine/root" "$root_disk" >"$root_disk.log" 2>&1 8>&- ||
        die "the root cannot be made: $(tail -n 20 "$root_disk.log")"
}

build_base() {
    local new=$base.new kernel_root=$base.new/kernel version
    say "making the machine's base, $base"
    rm -rf "$new"
    mkdir -p "$kernel_root"
    fetch_kernel "$1" "$kernel_root" >"$new/log" 2>&1 || die "the kernel cannot be fetched: $(<"$new/log")"
    version=$(basename "$kernel_root"/lib/modules/*)
    cp "$kernel_root/boot/vmlinuz-$version" "$new/vmlinuz"
    depmod -b "$kernel_root" "$version"
    busybox_root "$new/root" init "${busybox_modules[@]}"
    pack "$new/root" "$new/initrd"
    busybox_root "$new/root" switch "${system_modules[@]}"
    pack "$new/root" "$new/initrd-system"
    mke2fs -q -t ext4 -O ^has_journal -d "$kernel_root/lib/modules/$version" "$new/modules" 256M >>"$new/log"
    rm -rf "$kernel_root" "$new/root"
    mv "$new" "$base"
}

# busybox_root DIRECTORY INIT MODULE...
busybox_root() {
    local root=$1 init=$2 module file number=100 applet
    shift 2
    rm -rf "$root"
    mkdir -p "$root"/{bin,lib/modules,proc,sys,dev,run,tmp,var,etc,mnt,usr/local}
    # Loaded in the order of their names; what is in the kernel has no file.
    for module in "$@"; do
        modprobe -d "$kernel_root" -S "$version" --show-depends "$module" | sed -n 's/^insmod \(.*\.ko[.a-z]*\).*/\1/p'
    done | awk '!seen[$0]++' >"$root.modules"
    while read -r file; do
        module=$root/lib/modules/$((number++))-$(basename "$file" .xz)
        case $file in
            *.xz) xz --decompress --stdout "$file" >"$module" ;;
            *) cp "$file" "$module" ;;
        esac
    done <"$root.modules"
    rm "$root.modules"
    cp "$(command -v busybox)" "$root/bin/busybox"
    for applet in $(busybox --list); do
        [ "$applet" = busybox ] || ln -s busybox "$root/bin/$applet"
    done
    install -m 755 "$hack/machine/$init" "$root/init"
}

# pack TREE FILE: appended; the kernel unpacks one archive after the other.
pack() {
    (cd "$1" && find . -print0 | cpio --quiet --null --create --format=newc --owner=+0:+0 >>"$2")
}
