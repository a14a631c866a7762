#!/usr/bin/env bash
# Makes .venv with exactly the packages of deploy/constraints.txt; does nothing if it is up to date.
# Source it, or run it; PYTHON names another interpreter than python3.11 or python3.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"

stamp="$(cat deploy/constraints.txt pyproject.toml | cksum)"
if [ "$(cat .venv/.stamp 2>/dev/null)" != "$stamp" ]; then
    python="${PYTHON:-$(command -v python3.11 || command -v python3)}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
        echo "ntkdist needs Python 3.11 or newer; $python is older. Set PYTHON to one that is." >&2
        exit 2
    }
    echo "installing into .venv (once, a minute or two) ..." >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        -r deploy/constraints.txt
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation --editable .
    echo "$stamp" >.venv/.stamp
fi
export PATH="$root/.venv/bin:$PATH"
