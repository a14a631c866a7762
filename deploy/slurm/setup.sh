# shellcheck shell=bash
# Sourced by gram.sbatch and join.sbatch with the number of the job that computes the run.
#
# $state is what its nodes share: on a file system that all of them see, outside the run. A job
# that is queued again keeps its number, and each job of an array has its own.
home="${NTKDIST_STATE:-$HOME/.ntkdist}"
state="$home/slurm-$1"
export PATH="$PWD/.venv/bin:$PATH"
# The same on every node, or they refuse each other; srun takes the environment along.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$state/token"
export RAY_USAGE_STATS_ENABLED=0
# Ray ends at once when it is told to, which is after the driver: it has nothing left to drain.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
# Where no role gives credentials of an object store: lines NAME=VALUE in a file of mode 600.
if [ -r "$home/credentials" ]; then
    set -a
    # shellcheck source=/dev/null
    source "$home/credentials"
    set +a
fi
