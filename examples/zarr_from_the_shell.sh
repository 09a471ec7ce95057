#!/usr/bin/env bash
# A mixture fitted to a zarr array from the shell. Writes into the current folder.
set -euo pipefail

# 200,000 rows of three features from three groups, in chunks of 25,000 rows.
"${PYTHON:-python3}" - <<'PYTHON'
import numpy as np
import zarr

rng = np.random.default_rng(0)
centres = np.array([[0.0, 0.0, 0.0], [6.0, 0.0, 1.0], [0.0, 6.0, -1.0]])
groups = rng.choice(3, size=200_000, p=[0.5, 0.3, 0.2])
store = zarr.create_array("rows.zarr", shape=(200_000, 3), chunks=(25_000, 3), dtype="float32")
store[:] = centres[groups] + rng.normal(size=(200_000, 3))
PYTHON

dem info rows.zarr
dem fit rows.zarr --components 3 --seed 0 --out model.zarr
dem info model.zarr
dem predict model.zarr rows.zarr labels.zarr
dem predict model.zarr rows.zarr proba.zarr --proba
dem score model.zarr rows.zarr
