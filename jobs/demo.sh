#!/usr/bin/env bash
# The whole pipeline on scikit-learn's digits with 30 % label noise; ends with the report's path.
# Arguments go to "ntkdist run", e.g. --run runs/other.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
code=0
result="$(ntkdist run jobs/demo.yaml "$@")" || code=$?
echo "for the command ntkdist in this shell: source .venv/bin/activate" >&2
printf '%s\n' "$result"
exit "$code"
