# Layers and images in OCI layouts, from directories. Sourced by images/build, which sets work and registry.
# shellcheck shell=bash

# layer TREE NAME: packs a directory; writes its descriptor and diff id to $work/layers/NAME.
layer() {
    local tree=$1 name=$2 out=${work:?}/layers
    mkdir -p "$out"
    tar -C "$tree" --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$out/$name.tar" .
    gzip -n -6 <"$out/$name.tar" >"$out/$name.tar.gz"
    jq -n --arg diff "$(digest "$out/$name.tar")" --arg digest "$(digest "$out/$name.tar.gz")" \
        --argjson size "$(stat -c %s "$out/$name.tar.gz")" \
        '{diff: $diff, layer: {mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: $digest, size: $size}}' \
        >"$out/$name.json"
    rm "$out/$name.tar"
}

# image REPOSITORY:TAG CONFIG LAYER...: makes the image of layers, bottom first, and pushes it to $registry.
image() {
    local name=$1 config=$2 layout=$work/layout blobs=$work/layout/blobs/sha256 layer descriptor
    shift 2
    rm -rf "$layout"
    mkdir -p "$blobs"
    for layer in "$@"; do
        cp "$work/layers/$layer.tar.gz" "$blobs/$(jq -r '.layer.digest[7:]' "$work/layers/$layer.json")"
    done
    local files=("${@/#/$work/layers/}")
    files=("${files[@]/%/.json}")
    # Debian's name of the architecture is also that of the image format on amd64 and arm64.
    descriptor=$(jq -s --arg arch "$(dpkg --print-architecture)" --argjson config "$config" \
        '{created: "1970-01-01T00:00:00Z", architecture: $arch, os: "linux", config: $config,
          rootfs: {type: "layers", diff_ids: [.[].diff]}}' "${files[@]}" | blob application/vnd.oci.image.config.v1+json)
    descriptor=$(jq -s --argjson config "$descriptor" \
        '{schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json", config: $config,
          layers: [.[].layer]}' "${files[@]}" | blob application/vnd.oci.image.manifest.v1+json)
    jq -n --argjson manifest "$descriptor" '{schemaVersion: 2, manifests: [$manifest]}' >"$layout/index.json"
    echo '{"imageLayoutVersion": "1.0.0"}' >"$layout/oci-layout"
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$layout" "docker://${registry:?}/$name"
}

# Stores its input as a blob of the layout at hand; prints the descriptor.
blob() {
    local file=$work/layout/blob sum
    cat >"$file"
    sum=$(digest "$file")
    jq -n --arg type "$1" --arg digest "$sum" --argjson size "$(stat -c %s "$file")" \
        '{mediaType: $type, digest: $digest, size: $size}'
    mv "$file" "$work/layout/blobs/sha256/${sum#sha256:}"
}

digest() {
    local sum
    sum=$(sha256sum "$1")
    echo "sha256:${sum%% *}"
}
