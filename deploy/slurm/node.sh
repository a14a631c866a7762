#!/usr/bin/env bash
# Ray on one node, until the step ends: node.sh STATE head|worker. A worker that finds no head, or
# loses it, tries again until the job has no address any more.
#
# The head's port is the job's own and the others are free ones, so that jobs can share a node.
set -euo pipefail

state=$1 role=$2
scratch="$(mktemp -d "${TMPDIR:-/tmp}/ntkdist.XXXXXX")"
trap 'rm -rf "$scratch"' EXIT
trap 'exit 143' TERM # once "ray start", which gets it too, has ended
options=(--block --num-cpus="${SLURM_CPUS_PER_TASK:-1}" --object-store-memory=100000000
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0
    --temp-dir="$scratch")

if [ "$role" = head ] && [ "$SLURM_PROCID" -eq 0 ]; then
    # without an address the batch script and the workers give up
    trap 'rm -rf "$scratch" "$state/address"' EXIT
    # Ray's client server, which nothing here uses, has a port of its own where grpcio is installed
    ! python -c 'import grpc' 2>/dev/null || options+=(--ray-client-server-port=0)
    address="$(cat "$state/address")"
    ray start --head --node-ip-address="${address%:*}" --port="${address#*:}" "${options[@]}"
    exit
fi
while address="$(cat "$state/address" 2>/dev/null)"; do
    ray start --address="$address" "${options[@]}" || sleep 5
done
