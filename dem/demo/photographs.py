"""The data of the demonstration: pixels of scikit-learn's sample photographs, tiled with sub-pixel jitter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FEATURES = ("red", "green", "blue", "x", "y")


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs side by side: images of uint8 and shape (height, width, 3), all of one height."""

    images: tuple[NDArray[np.uint8], ...]

    @property
    def panorama(self) -> NDArray[np.uint8]:
        """All photographs beside one another."""
        return np.concatenate(self.images, axis=1)

    @property
    def rows_per_image(self) -> int:
        """Number of pixels of one photograph."""
        return int(np.prod(self.images[0].shape[:2]))

    def rows(self, number: int, seed: int | None = None) -> NDArray[np.float64]:
        """Return one photograph as rows of `FEATURES`, shape (rows_per_image, 5).

        The number counts through the photographs again and again. With a seed every line and column is shifted by up
        to half a pixel, and the colours are interpolated there: another sample of the same scene. Colours go from 0
        to 1; positions are in heights of the photograph, y downwards.
        """
        image = self.images[number % len(self.images)] / 255.0
        height, width = image.shape[:2]
        y, x = np.arange(height, dtype=np.float64), np.arange(width, dtype=np.float64)
        if seed is not None:
            rng = np.random.default_rng([seed, number])
            y, x = y + rng.uniform(-0.5, 0.5, height), x + rng.uniform(-0.5, 0.5, width)
            image = _interpolate(_interpolate(image, y).swapaxes(0, 1), x).swapaxes(0, 1)
        left = sum(other.shape[1] for other in self.images[: number % len(self.images)])
        table = np.empty((height, width, len(FEATURES)))
        table[..., :3] = image
        table[..., 3] = (x + left) / height
        table[..., 4] = y[:, np.newaxis] / height
        return table.reshape(-1, len(FEATURES))


def load_photographs() -> Photographs:
    """Load china.jpg and flower.jpg, which scikit-learn ships."""
    from sklearn.datasets import load_sample_image  # noqa: PLC0415

    return Photographs(tuple(np.asarray(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")))


def write_store(path: str, photographs: Photographs, n_copies: int, seed: int) -> None:
    """Write copies of the photographs as a zarr array, each copy of each photograph one chunk.

    The first copy is the photographs as they are, all others are jittered. The chunks are written side by
    side on the active Dask client.
    """
    import zarr  # noqa: PLC0415
    from dask.base import compute  # noqa: PLC0415
    from dask.delayed import delayed  # noqa: PLC0415

    n_chunks = n_copies * len(photographs.images)
    zarr.create_array(
        path,
        shape=(n_chunks * photographs.rows_per_image, len(FEATURES)),
        chunks=(photographs.rows_per_image, len(FEATURES)),
        dtype="float64",
        compressors=None,
        attributes={"feature_names": list(FEATURES)},
        dimension_names=("pixel", "feature"),
    )
    shared = delayed(photographs)
    write = delayed(_write_chunk)
    compute(*(write(path, shared, number, seed) for number in range(n_chunks)))


def _write_chunk(path: str, photographs: Photographs, number: int, seed: int) -> None:
    import zarr  # noqa: PLC0415

    array: Any = zarr.open_array(path, mode="r+")
    start = number * photographs.rows_per_image
    is_original = number < len(photographs.images)
    rows = photographs.rows(number, None if is_original else seed)
    array[start : start + len(rows)] = rows


def _interpolate(image: NDArray[np.float64], where: NDArray[np.float64]) -> NDArray[np.float64]:
    """Interpolate linearly along the first axis; the border goes on outside."""
    where = np.clip(where, 0, len(image) - 1)
    before = np.minimum(where.astype(int), len(image) - 2)
    share = (where - before).reshape(-1, *[1] * (image.ndim - 1))
    return np.asarray((1.0 - share) * image[before] + share * image[before + 1])
