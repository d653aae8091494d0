#!/usr/bin/env bash
# Everything that crictl does with a runtime, on pods that reach each other. Runs inside of hack/node.
set -euo pipefail

image=registry.k8s.io/e2e-test-images/nginx:1.14-2
tools=registry.k8s.io/e2e-test-images/busybox:1.29-2
host_port=18080
work=$(mktemp -d "${TMPDIR:-/tmp}/corten-crictl-XXXXXX")
trap 'rm -rf "$work"' EXIT

# expect WHAT PATTERN COMMAND...: the command succeeds and prints something that fits.
expect() {
    local what=$1 pattern=$2 output
    shift 2
    if ! output=$("$@" 2>&1) || ! grep -qE -- "$pattern" <<<"$output"; then
        printf 'FAILED: %s\n$ %s\n%s\n(want %s)\n' "$what" "$*" "$output" "$pattern" >&2
        exit 1
    fi
    printf 'ok: %s\n' "$what"
}

pod_file() {
    local name=$1 ports=$2
    cat >"$work/$name.json" <<END
{
  "metadata": {"name": "$name", "namespace": "default", "uid": "$name-uid", "attempt": 0},
  "hostname": "$name",
  "log_directory": "$work/logs/$name",
  "port_mappings": [$ports],
  "linux": {"security_context": {"namespace_options": {"pid": 1}}}
}
END
}

container_file() {
    local name=$1 from=$2 command=$3
    cat >"$work/$name-container.json" <<END
{
  "metadata": {"name": "$name", "attempt": 0},
  "image": {"image": "$from"},
  "command": $command,
  "log_path": "$name.log",
  "linux": {"security_context": {"namespace_options": {"pid": 1}}}
}
END
}

pod_file web '{"protocol": 0, "container_port": 80, "host_port": '$host_port'}'
pod_file client ''
container_file web "$image" '[]'
container_file client "$tools" '["sh", "-c", "echo ready; sleep 1000"]'

expect version 'RuntimeName: +corten' crictl version
expect info '"NetworkReady"' crictl info
expect 'pull the server' 'Image is up to date' crictl pull "$image"
expect 'pull the client' 'Image is up to date' crictl pull "$tools"
expect images 'e2e-test-images/nginx +1.14-2' crictl images

web=$(crictl runp "$work/web.json")
client=$(crictl runp "$work/client.json")
server=$(crictl create "$web" "$work/web-container.json" "$work/web.json")
shell=$(crictl create "$client" "$work/client-container.json" "$work/client.json")
expect 'start the server' "$server" crictl start "$server"
expect 'start the client' "$shell" crictl start "$shell"
expect ps "${server:0:13}.*Running" crictl ps
expect pods "${web:0:13}.*Ready" crictl pods
expect inspect '"CONTAINER_RUNNING"' crictl inspect "$server"
expect inspectp '"SANDBOX_READY"' crictl inspectp "$web"
ip=$(crictl inspectp "$web" | jq -er .status.network.ip)
client_ip=$(crictl inspectp "$client" | jq -er .status.network.ip)

expect 'the host reaches the pod' . curl -fsS --retry 20 --retry-connrefused "http://$ip/"
expect 'another pod reaches the pod' . crictl exec --sync "$shell" wget -qO- "http://$ip/"
expect 'the host port answers on 127.0.0.1' . curl -fsS "http://127.0.0.1:$host_port/"
gateway=$(crictl exec --sync "$shell" ip route | awk '$1 == "default" { print $3 }')
expect 'another pod reaches the host port' . crictl exec --sync "$shell" wget -qO- "http://$gateway:$host_port/"
expect 'the pod reaches its own host port' . crictl exec --sync "$server" \
    sh -c "wget -qO- http://$gateway:$host_port/ || curl -fsS http://$gateway:$host_port/"
expect 'exec --sync' "$client_ip" crictl exec --sync "$shell" ip address show eth0
expect logs '^ready$' crictl logs "$shell"
expect 'inspect an image' '"repoTags"' crictl inspecti "$image"

expect 'stop the client' "$shell" crictl stop --timeout 1 "$shell"
expect 'a stopped container is exited' "${shell:0:13}.*Exited" crictl ps --all
expect 'rm the client' "$shell" crictl rm "$shell"
expect 'stopp' "$web" crictl stopp "$web"
expect 'a stopped pod is not ready' "${web:0:13}.*NotReady" crictl pods
expect 'rmp with its container' "$web" crictl rmp "$web"
expect 'rmp --force' "$client" crictl rmp --force "$client"
expect 'rmi' 'Deleted' crictl rmi "$image" "$tools"
left=$(crictl pods --quiet; crictl ps --all --quiet; crictl images --quiet)
[ -z "$left" ] || { echo "FAILED: this is left: $left" >&2; exit 1; }
if curl -s --max-time 2 "http://127.0.0.1:$host_port/" >/dev/null; then
    echo "FAILED: the host port still answers" >&2
    exit 1
fi
echo 'crictl: all passed'
