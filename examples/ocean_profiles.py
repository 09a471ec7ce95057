"""Kinds of salinity profiles in the world ocean: land and shallow seas are gaps, classes come back on the map.

The data is the atlas behind the TEOS-10 standard (McDougall et al. 2012), a cube of 45 pressures, 45 latitudes and 90
longitudes of which 39 % is NaN. It lies in the package gsw 3.0.6: `pip install "gsw==3.0.6"`. Run this with
`python ocean_profiles.py`, or with the name of a PNG to draw the map and the profiles too.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import xarray as xr

import dem

# Down to where the intermediate waters end; a profile that ends above, at the bottom of the sea, is a gap.
DEEPEST = 1520.0


def open_atlas() -> xr.Dataset:
    """Return reference salinity (g/kg) and its anomaly (mg/kg) on their grid, and the area of each place."""
    package = importlib.util.find_spec("gsw")
    if package is None or not package.submodule_search_locations:
        sys.exit('this example needs the atlas in gsw 3.0.6: pip install "gsw==3.0.6"')
    atlas = np.load(Path(package.submodule_search_locations[0]) / "utilities" / "data" / "gsw_data_v3_0.npz")
    grid = ("pressure", "lat", "lon")
    ocean = xr.Dataset(
        {"salinity": (grid, atlas["SR_ref"]), "anomaly": (grid, 1000.0 * atlas["deltaSA_ref"])},
        {
            "pressure": ("pressure", atlas["p_ref"].astype(float), {"units": "dbar"}),
            "lat": ("lat", atlas["lats_ref"].astype(float), {"units": "degrees_north"}),
            "lon": ("lon", atlas["longs_ref"].astype(float), {"units": "degrees_east"}),
        },
    )
    ocean = ocean.isel(lon=slice(0, -1)).sel(pressure=slice(0.0, DEEPEST))  # the last longitude is the first again
    ocean = ocean.where(ocean.salinity > 0.0)  # in the Baltic Sea, which the standard treats otherwise, it holds zeros
    ocean.salinity.attrs["units"], ocean.anomaly.attrs["units"] = "g/kg", "mg/kg"
    area = np.cos(np.deg2rad(ocean.lat)).clip(min=0.01).expand_dims(lon=ocean.lon, axis=1)
    return ocean.assign(area=area.drop_attrs())


def draw(ocean: xr.Dataset, classes: xr.DataArray, mixture: dem.GaussianMixture, path: str) -> None:
    """Draw the classes on a map, and the mean salinity of each against pressure."""
    import matplotlib.pyplot as plt  # noqa: PLC0415

    colours = plt.colormaps["tab10"].resampled(10)
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=(3, 1), layout="constrained")
    drawing = {"cmap": colours, "vmin": -0.5, "vmax": 9.5, "add_colorbar": False}
    classes.where(classes >= 0).plot(ax=left, **drawing)
    left.set(title="kinds of salinity profiles", facecolor="lightgrey")
    n_levels = ocean.sizes["pressure"]
    for k, mean in enumerate(mixture.means_[:, :n_levels]):
        right.plot(mean, ocean.pressure, color=colours(k), label=f"{k}: {mixture.weights_[k]:.0%}")
    right.set(xlabel="salinity (g/kg)", ylabel="pressure (dbar)", title="mean of each")
    right.invert_yaxis()
    right.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Fit, label and describe."""
    ocean = open_atlas()
    mixture = dem.GaussianMixture(6, scale=True, missing="skip", reg_covar=1e-3, n_init=5, random_state=0)
    mixture.fit(ocean, features={"salinity": "pressure", "anomaly": "pressure"}, sample_weight="area")
    classes = mixture.predict(ocean).rename("kind")
    print(classes)

    gaps = int((classes < 0).sum())
    print(f"{classes.size - gaps} profiles of {mixture.n_features_in_} numbers, {gaps} places are land or too shallow")
    latitude = ocean.lat.broadcast_like(classes)
    for k in np.argsort(-mixture.weights_):
        where = classes == k
        surface, south, north = mixture.means_[k, 0], *latitude.where(where).quantile([0.1, 0.9]).values
        print(f"kind {k}: {mixture.weights_[k]:6.1%} of the area, {surface:5.2f} g/kg at the surface, ", end="")
        print(f"mostly from {south:.0f}° to {north:.0f}°")
    if len(sys.argv) > 1:
        draw(ocean, classes, mixture, sys.argv[1])


if __name__ == "__main__":
    main()
