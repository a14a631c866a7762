"""A Gram matrix as a file for other software: NumPy (read without loading), HDF5, safetensors.

    python jobs/examples/export.py                       # of 300 digits, into a temporary folder
    python jobs/examples/export.py RUN K.npy K.h5        # of an existing run

Rows are written in bands, so that the matrix may be larger than memory.
"""

import sys
import tempfile

import numpy as np

import ntkdist
from ntkdist.errors import InputError
from ntkdist.gram.export import export


def main(run: str | dict, files: list[str]) -> None:
    gram = ntkdist.open_gram(ntkdist.compute(run, stages=["gram"]))
    for file in files:
        try:
            print("wrote", export(gram, file))
        except InputError as error:  # h5py is not installed, or the file exists already
            print(error)
        if file.endswith(".npy"):
            K = np.load(file, mmap_mode="r")
            equal = np.array_equal(K[:20], gram[:20]) and np.array_equal(K[:, 7], gram[7])
            print(f"shape: {K.shape}, equal to the store: {equal}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], sys.argv[2:])
    else:
        with tempfile.TemporaryDirectory() as folder:
            made = {"run": f"{folder}/run", "data": {"n": 300}, "gram": {"executor": "inline"}}
            main(made, [f"{folder}/K.{ending}" for ending in ("npy", "npz", "h5", "safetensors")])
