"""A catalogue as surveys have it: errors, detection limits, selection, and sources that are nothing of the kind.

Three populations in three colours, known with errors that grow towards faint sources. The bluest band of some is below
the detection limit, so that a colour is only known to be redder than a number. Faint sources are found with some
probability only, and weigh accordingly. Of a few spectra tell the population, and a few in a thousand have bad
photometry. Run it with `python sky_catalogue.py`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

import dem

COLOURS = ["u_g", "g_r", "r_i"]
ERRORS = ["var_u_g", "var_g_r", "var_r_i"]
SHARES = np.array([0.6, 0.3, 0.1])
MEANS = np.array([[1.2, 0.5, 0.2], [2.6, 1.4, 0.9], [0.2, 0.2, 0.1]])
WIDTHS = np.array([0.25, 0.2, 0.12])


def make_catalogue(n_rows: int = 20_000, seed: int = 0) -> pd.DataFrame:
    """Return sources with measured colours, variances of their errors, limits, weights, and what spectra tell."""
    rng = np.random.default_rng(seed)
    kind = rng.choice(3, size=n_rows, p=SHARES)
    colours = MEANS[kind] + WIDTHS[kind, np.newaxis] * rng.normal(size=(n_rows, 3))
    magnitude = rng.uniform(16.0, 22.0, n_rows)
    deviations = 0.02 + np.exp(0.9 * (magnitude - 22.0))[:, np.newaxis] * [0.5, 0.2, 0.2]
    measured = colours + deviations * rng.normal(size=(n_rows, 3))
    bad = rng.random(n_rows) < 0.003
    measured[bad] += 20.0 * rng.normal(size=(np.count_nonzero(bad), 3))
    catalogue = pd.DataFrame(measured, columns=COLOURS)
    catalogue[ERRORS] = deviations**2
    faintest = 23.0 - magnitude  # u − g of a source that is just detected in u
    undetected = (catalogue.u_g > faintest) & ~bad
    catalogue["redder_than"] = np.where(undetected, faintest, -np.inf)
    catalogue.loc[undetected, "u_g"] = np.nan
    found = 1.0 / (1.0 + np.exp(2.0 * (magnitude - 21.5)))  # the probability to be in the catalogue
    catalogue["weight"] = 1.0 / found
    catalogue["population"] = np.where((rng.random(n_rows) < 0.02) & ~bad, kind, -1)
    return catalogue[rng.random(n_rows) < found].reset_index(drop=True)


def main() -> None:
    """Write, fit, describe and look for what does not belong."""
    catalogue = make_catalogue()
    path = str(Path(tempfile.mkdtemp()) / "catalogue.parquet")
    catalogue.to_parquet(path, row_group_size=4_000)
    limits = np.full((len(catalogue), 3), -np.inf)
    limits[:, 0] = catalogue.redder_than
    print(f"{len(catalogue)} sources, {np.isfinite(limits).sum()} not detected in u")

    rows = {"columns": COLOURS, "noise_covariance": ERRORS, "lower": limits}
    mixture = dem.GaussianMixture(4, random_state=0, n_init=3, max_iter=300)  # the fourth takes what is bad
    mixture.fit(path, sample_weight="weight", labels="population", **rows)
    for k in np.argsort(-mixture.weights_):
        widths = np.sqrt(np.diagonal(mixture.covariances_[k]))
        told = zip(COLOURS, mixture.means_[k], widths, strict=True)
        words = ", ".join(f"{name} {mean:5.2f} ± {width:.2f}" for name, mean, width in told)
        print(f"population {k}: {mixture.weights_[k]:6.1%}, {words}")

    found = mixture.outliers(path, share=0.002, **rows)
    print("lowest density:")
    print(pd.DataFrame(found.columns).head(5).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
