"""Tiles written and read, and objects listed, in folders and object stores side by side.

    python jobs/benchmarks/objects.py FOLDER s3://bucket/objects
    python jobs/benchmarks/objects.py s3://bucket/objects --objects 20000 --edge 1024

Credentials and endpoint of an object store come from the environment. Everything is written below
the addresses given, which must be empty; it stays there.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from _measure import timed, write

from ntkdist import storage
from ntkdist.gram.store import GramStore
from ntkdist.gram.tiling import Tiling


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("addresses", nargs="+")
    parser.add_argument("--edge", type=int, default=512)
    parser.add_argument("--tiles", type=int, default=55, help="about, of one matrix")
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--threads", type=int, default=8)
    args = parser.parse_args()
    for address in args.addresses:
        if storage.children(address):
            sys.exit(f"{address}: is not empty")
    rows = [measure(address, args) for address in args.addresses]
    write("objects", rows)


def measure(address: str, args: argparse.Namespace) -> dict[str, object]:
    """Return seconds and rates at one address."""
    blocks = max(1, int((2 * args.tiles) ** 0.5))
    tiling = Tiling(blocks * args.edge, args.edge)
    store = GramStore.create(
        storage.join(address, "gram"), tiling, fingerprint="benchmark", kind="ntk"
    )
    block = np.random.default_rng(0).random((args.edge, args.edge), np.float32)
    keys = list(tiling.keys())
    writing, _ = timed(lambda: [store.write(key, block) for key in keys])
    reading, _ = timed(lambda: [store.block(key.row, key.col) for key in keys])
    places = [storage.join(address, "small", str(i // 200), str(i)) for i in range(args.objects)]
    with ThreadPoolExecutor(args.threads) as pool:
        filling, _ = timed(lambda: list(pool.map(lambda p: storage.write_text(p, "x"), places)))
    listing, found = timed(lambda: storage.list_objects(storage.join(address, "small")))
    assert len(found) == args.objects
    row: dict[str, object] = {
        "place": address.partition("://")[0] if "://" in address else "folder",
        "tile_bytes": block.nbytes,
        "tiles": len(keys),
        "tiles_written_per_s": len(keys) / writing,
        "tiles_read_per_s": len(keys) / reading,
        "objects": args.objects,
        "small_objects_written_per_s": args.objects / filling,
        "list_seconds": listing,
    }
    print(
        f"{row['place']:>6}: tiles of {block.nbytes / 2**20:.1f} MiB, written "
        f"{len(keys) / writing:.1f}/s, read {len(keys) / reading:.1f}/s; {args.objects} small "
        f"objects written {args.objects / filling:.0f}/s, listed in {listing:.2f} s",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
