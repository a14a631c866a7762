#!/usr/bin/env bash
# The test suite, without what is slow or needs a GPU; with --all what is slow too. Further arguments
# go to pytest.
# Tests on real images run if NTKDIST_DATA names the folder that holds them. Two processes share the
# test files; "-n 0" runs all in one process.
set -euo pipefail
select="not slow and not long and not gpu"
if [ "${1:-}" = --all ]; then
    select="not long and not gpu"
    shift
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# what compiles the GPU kernels without a GPU: the tests execute their code on the processor
compilers="$(grep -E '^(cuda-(bindings|core|pathfinder)|numba-cuda|nvidia-(cuda-nvcc|cuda-nvrtc|nvjitlink)-cu12)=' \
    deploy/constraints-cuda.txt)"
if [ "$(cat .venv/.compilers 2>/dev/null)" != "$compilers" ]; then
    # shellcheck disable=SC2086
    python -m pip install --quiet --disable-pip-version-check --no-deps $compilers
    echo "$compilers" >.venv/.compilers
fi
# compiled once, in parallel, instead of by each process
echo "compiling the kernels that are not compiled yet ..."
for dtype in float32 float64; do
    python -c "
import numpy as np
from ntkdist import kernel_matrix
for network in ('cnn-3', 'fc-2'):
    kernel_matrix(network, np.ones((2, 4, 4, 1)), backend='cpu', dtype='$dtype')
" &
done
wait
exec python -m pytest -m "$select" -n 2 --dist loadfile --no-loadscope-reorder "$@"
