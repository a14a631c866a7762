#!/usr/bin/env bash
# The whole pipeline on scikit-learn's digits with 30 % label noise; ends with the report's path.
# Arguments go to "ntkdist run", e.g. --run runs/other.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
report="$(ntkdist run jobs/demo.yaml "$@" | tee -a /dev/stderr | tail -n 1)"
echo "for the command ntkdist in your shell: source .venv/bin/activate; the report:" >&2
echo "$report"
