"""A run on a Ray cluster from Python, interrupted and resumed.

    python jobs/examples/cluster_run.py                                  # two workers here
    python jobs/examples/cluster_run.py --address ray-head:6379 --run s3://BUCKET/runs/digits

Without --address Ray is started on this machine while the run lasts. On a cluster --run must be a
shared folder or an object store, which all machines reach. A run that is killed, even with kill -9,
loses only the tiles in flight: start the script again.
"""

import argparse
import signal
import tempfile

import ntkdist
from ntkdist.errors import InterruptedRunError
from ntkdist.events.types import TileDone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--address", help="of the Ray cluster, HOST:PORT")
    parser.add_argument("--run", help="folder or URL of the run; else a temporary folder")
    parser.add_argument("--n", type=int, default=300)
    args = parser.parse_args()
    gram = {"executor": "ray", "address": args.address, "tile": 50}
    if args.address is None:
        gram["workers"] = 2
    with tempfile.TemporaryDirectory() as folder:
        place = args.run or f"{folder}/run"
        config = {"run": place, "architecture": "cntk-gap-4", "data": {"n": args.n}, "gram": gram}
        done: list[str] = []

        def stop_early(event: object) -> None:
            """Interrupt the run after three tiles, as Ctrl-C does; tiles in flight are kept."""
            if isinstance(event, TileDone):
                done.append(event.key)
                if len(done) == 3:
                    signal.raise_signal(signal.SIGINT)

        try:
            ntkdist.compute(config, stages=["gram"], subscribers=[stop_early])
        except InterruptedRunError as error:
            print(error)
        print(ntkdist.Run.open(place))
        first = len(done)
        run = ntkdist.compute(config, subscribers=[stop_early])
        print(
            f"{first} tiles before the stop, {len(done) - first} after it, none twice: "
            f"{len(set(done)) == len(done)}"
        )
        print(run)
        columns = ["index", "given_class", "suggested_class", "label_quality"]
        print(ntkdist.labels_table(run)[columns].head())


if __name__ == "__main__":
    main()
