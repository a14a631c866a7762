#!/usr/bin/env bash
# The test suite, without what is slow or needs a GPU. Arguments go to pytest.
# Tests on real images run where NTKDIST_DATA names the folder that holds them. Three processes share
# the files of tests, since many wait for others' processes; "-n 0" runs all in one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec python -m pytest -m "not slow and not gpu" -n 3 --dist loadfile --no-loadscope-reorder "$@"
