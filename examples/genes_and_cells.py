"""Types of cells by the genes they express: sparse counts as AnnData keeps them in zarr, read block by block.

A cell shows some molecules of each gene, in all more or fewer as it was caught well or badly. A multinomial mixture
looks at shares alone, so that this tells nothing; a negative binomial mixture of a few telling genes says besides how
much they scatter from cell to cell. The store is written here with plain zarr calls, in the layout of AnnData (a group
X of data, indices and indptr), as `adata.write_zarr` does. Run it with `python genes_and_cells.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import zarr
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

import dem

SHARES = np.array([0.45, 0.3, 0.15, 0.1])
N_GENES, N_MARKERS = 1500, 30


def write_cells(path: Path, n_cells: int = 6000, seed: int = 0) -> np.ndarray:
    """Write cells × genes of four types of cells as AnnData does, and return the types."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(len(SHARES), size=n_cells, p=SHARES)
    shares = np.tile(0.1 + rng.gamma(0.4, size=N_GENES), (len(SHARES), 1))
    for kind, own in enumerate(shares):  # its markers
        own[kind * N_MARKERS : (kind + 1) * N_MARKERS] += 4.0
    shares /= shares.sum(axis=1, keepdims=True)
    caught = rng.lognormal(np.log(400.0), 0.4, n_cells)
    blocks = []
    for start in range(0, n_cells, 1000):
        which = slice(start, start + 1000)
        rates = caught[which, np.newaxis] * shares[kinds[which]]
        blocks.append(sparse.csr_array(rng.poisson(rates * rng.gamma(2.0, 0.5, rates.shape)).astype(np.float32)))
    matrix = sparse.vstack(blocks, format="csr")
    root = zarr.open_group(path, mode="w")
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    group = root.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(matrix.shape)})
    for name in ("data", "indices", "indptr"):
        group.create_array(name, data=getattr(matrix, name), chunks=(50_000,))
    return kinds


def main() -> None:
    """Find the types, and the genes that mark them."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "cells.zarr"
        kinds = write_cells(store)
        rows = dem.open_rows(store)
        print(f"{rows.n_rows} cells x {rows.n_features} genes, {rows.n_bytes / 1e6:.0f} MB as they are stored")
        cells = dem.MultinomialMixture(len(SHARES), random_state=0, n_init=3, sample_rows=2000).fit(store)
        found = cells.predict(store)
        print(f"types found again: adjusted Rand index {adjusted_rand_score(kinds, found):.3f}")
        lift = cells.probabilities_ / (cells.weights_ @ cells.probabilities_)
        markers = np.argsort(-lift, axis=1)[:, :N_MARKERS]
        for k in np.argsort(-cells.weights_):
            own = np.bincount(markers[k] // N_MARKERS).max()
            print(
                f"type of {cells.weights_[k]:.0%} of the cells: {own} of {N_MARKERS} markers, such as {markers[k][:3]}"
            )
        few = np.unique(markers[:, :5])
        group = zarr.open_group(store, mode="r")["X"]
        stored = [np.asarray(group[name]) for name in ("data", "indices", "indptr")]
        telling = sparse.csr_array(tuple(stored), shape=(rows.n_rows, rows.n_features))[:, few]
        options = {"fit_size": "shared", "algorithm": "auto", "random_state": 0, "tol": 1e-5, "max_iter": 500}
        scatter = dem.NegativeBinomialMixture(len(SHARES), **options).fit(telling)
        print(f"scatter of {len(few)} telling genes: r about {np.median(scatter.sizes_):.1f}")


if __name__ == "__main__":
    main()
