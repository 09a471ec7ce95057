"""Water masses: a mixture fitted to an ocean-like cube, its labels back on the cube's grid.

Run it with `python xarray_ocean.py`, or with the name of a PNG to draw the labels of a section too.
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr

import dem


def make_ocean(seed: int = 0) -> xr.Dataset:
    """Return two years of monthly temperature and salinity, lazily chunked along time.

    A warm and salty surface layer, thinner towards the poles, lies over cold deep water; ice melts in the far
    south.
    """
    rng = np.random.default_rng(seed)
    time = xr.date_range("2020-01-01", periods=24, freq="MS", use_cftime=False)
    coordinates = {
        "time": time,
        "depth": ("depth", np.array([5.0, 50.0, 150.0, 400.0, 1000.0, 3000.0]), {"units": "m"}),
        "lat": ("lat", np.arange(-75.0, 76.0, 5.0), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(0.0, 360.0, 10.0), {"units": "degrees_east"}),
    }
    grid = xr.Dataset(coords=coordinates)
    surface = np.exp(-grid.depth / (100.0 + 500.0 * np.cos(np.deg2rad(grid.lat)) ** 2))
    season = np.cos(2.0 * np.pi * (grid.time.dt.month - 8) / 12.0) * np.sign(grid.lat)
    melt = ((grid.lat < -60.0) & (grid.depth < 100.0)).astype(float)
    shape = tuple(grid.sizes.values())
    warmth = np.cos(np.deg2rad(grid.lat)) ** 2
    temperature = 2.0 + surface * (24.0 * warmth + 2.0 * season) - 2.5 * melt
    salinity = 34.7 + surface * (1.5 * warmth - 0.2) - 1.2 * melt
    noise = [xr.DataArray(rng.normal(size=shape), dims=list(grid.sizes)) for _ in range(2)]
    ocean = grid.assign(temperature=temperature + 0.5 * noise[0], salinity=salinity + 0.05 * noise[1])
    ocean.temperature.attrs["units"] = "degC"
    ocean.salinity.attrs["units"] = "g/kg"
    return ocean.transpose("time", "depth", "lat", "lon").chunk(time=6)


def main() -> None:
    """Fit, label and describe."""
    ocean = make_ocean()
    mixture = dem.GaussianMixture(n_components=4, random_state=0)
    mixture.fit(ocean)  # the variables are the features; all grid points are rows
    print(f"{mixture.n_iter_} iterations, {mixture.lower_bound_:.3f} nats per row")
    for k in np.argsort(mixture.means_[:, 0]):
        temperature, salinity = mixture.means_[k]
        print(f"water mass {k}: {mixture.weights_[k]:6.1%}, {temperature:5.1f} °C, {salinity:5.2f} g/kg")

    labels = mixture.predict(ocean).rename("mass")  # lazy, on the grid of the cube
    print(labels)
    equator = labels.sel(lat=0.0).isel(time=0, lon=0).compute()
    print("under the equator:", dict(zip(equator.depth.values.tolist(), equator.values.tolist(), strict=True)))

    if len(sys.argv) > 1:
        import matplotlib.pyplot as plt  # noqa: PLC0415

        section = labels.isel(time=0).sel(lon=180.0).compute()
        colours = plt.colormaps["tab10"].resampled(mixture.n_components)
        section.plot(cmap=colours, vmin=-0.5, vmax=mixture.n_components - 0.5, yscale="log", yincrease=False)
        plt.savefig(sys.argv[1])


if __name__ == "__main__":
    main()
