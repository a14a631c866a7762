"""Which architecture suits my images? Several are ranked by their kernels; no network is trained.

python jobs/examples/compare_architectures.py                  # fc-2, cnn-2 and cntk-gap-4
python jobs/examples/compare_architectures.py 500 fc-2 myrtle-5
"""

import sys
import tempfile

from ntkdist import RunConfig
from ntkdist.analyses.compare import compare_architectures


def main(n: int, architectures: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.from_dict(
            {"run": f"{folder}/run", "data": {"n": n}, "gram": {"executor": "inline"}}
        )
        for one in compare_architectures(config, architectures):
            print(
                f"{one.name:<12} leave-one-out accuracy: {one.accuracy:.3f}  "
                f"block error L(Z): {one.block_error:.4g}  Gram: {one.gram_seconds:.1f} s"
            )


if __name__ == "__main__":
    main(
        int(sys.argv[1]) if len(sys.argv) > 1 else 300,
        sys.argv[2:] or ["fc-2", "cnn-2", "cntk-gap-4"],
    )
