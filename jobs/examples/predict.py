"""How well does the kernel predict images it has not seen? Train on N digits, predict M others.

python jobs/examples/predict.py             # 300 and 200 of scikit-learn's digits
python jobs/examples/predict.py 1000 500
"""

import sys
import tempfile

from ntkdist import RunConfig
from ntkdist.analyses.predict import predict
from ntkdist.pipeline import Pipeline


def main(n: int = 300, m: int = 200) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.from_dict(
            {
                "run": f"{folder}/run",
                "architecture": "cntk-gap-4",
                "data": {"source": "digits", "n": n},
                "gram": {"executor": "inline"},
                "predict": {"on": "rest", "n": m},
            }
        )
        with Pipeline(config) as pipeline:
            found = predict(pipeline)
        quality = found.evaluation
        print(f"accuracy: {quality.accuracy:.3f} of {found.images} images, ridge {found.ridge:g}")
        print(f"log-loss: {quality.log_loss:.3f}")
        print(f"calibration error: {quality.calibration_error:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
