#!/usr/bin/env bash
# The whole pipeline on scikit-learn's digits with 30 % label noise; ends with the report's path.
# Arguments go to "ntkdist run", e.g. --run runs/other.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec ntkdist run jobs/demo.yaml "$@"
