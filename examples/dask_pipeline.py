"""A lazy Dask pipeline with scaling in front, fitted and labelled on a cluster of two processes."""

from __future__ import annotations

import dask.array as da
import numpy as np
from distributed import Client

import dem

# Three groups in columns of very different units.
CENTRES = np.array([[0.0, 1000.0, 0.001], [4.0, 1000.0, 0.005], [0.0, 3000.0, 0.005]])
SPREAD = np.array([1.0, 300.0, 0.001])


def make_rows(n_rows: int = 300_000) -> da.Array:
    """Return rows that exist only while they are looked at."""
    rng = da.random.default_rng(0)
    groups = rng.choice(3, size=n_rows, p=[0.2, 0.3, 0.5], chunks=50_000)
    centres = groups.map_blocks(lambda group: CENTRES[group], chunks=(groups.chunks[0], (3,)), new_axis=1)
    return centres + rng.normal(size=(n_rows, 3), chunks=(50_000, 3)) * SPREAD


def main() -> None:
    """Scale, fit and count, without ever holding all rows."""
    rows = make_rows()
    # Lazy all through; dem works mean and std out once, not in every pass over the data.
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    scaled = (rows - mean) / std

    mixture = dem.GaussianMixture(n_components=3, random_state=0).fit(scaled)
    order = np.argsort(mixture.weights_)
    print("weights:", np.round(mixture.weights_[order], 3))
    print("means in the units of the rows:", *(mixture.means_ * std + mean).compute()[order], sep="\n")

    labels = mixture.predict(scaled)  # still lazy
    print(labels)
    counts = da.bincount(labels, minlength=3).compute()
    print("rows per component:", counts[order].tolist())


if __name__ == "__main__":  # worker processes import this file
    with Client(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0"):
        main()
