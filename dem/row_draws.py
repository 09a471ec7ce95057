"""Random numbers that belong to rows: a stream for each, by a seed and its position, however rows are cut into chunks.

The generator is Philox 4x64-10 (Salmon, Moraes, Dror and Shaw 2011), whose numbers are a function of a counter and a
key, so that those of any rows are computed together, and of no others. Row i of the seed s has the numbers of
``numpy.random.Philox(key=[s, 0], counter=[0, i, 0, 0])``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaincinv, ndtri

Array: TypeAlias = NDArray[Any]

_MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
_KEY_STEPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
_ROUNDS = 10
_LOW = np.uint64(2**32 - 1)
_HALF = np.uint64(32)

Words = NDArray[np.uint64]


def philox(seed: int, index: NDArray[np.int64], first: int, stop: int) -> Words:
    """Return numbers `first` to `stop` (exclusive) of the streams of rows, uint64, shape (n, stop − first)."""
    blocks = np.arange(first // 4, -(-stop // 4), dtype=np.uint64) + np.uint64(1)
    shape = (len(index), len(blocks))
    words: list[Words] = [np.zeros(shape, np.uint64) for _ in range(4)]
    words[0] += blocks
    words[1] += index.astype(np.uint64)[:, np.newaxis]
    keys = [seed, 0]
    for _ in range(_ROUNDS):
        (high_0, low_0), (high_1, low_1) = (_product(a, b) for a, b in zip(_MULTIPLIERS, words[::2], strict=True))
        a, b = (np.uint64(key) for key in keys)
        words = [high_1 ^ words[1] ^ a, low_1, high_0 ^ words[3] ^ b, low_0]
        keys = [(key + step) % 2**64 for key, step in zip(keys, _KEY_STEPS, strict=True)]
    flat = np.stack(words, axis=-1).reshape(len(index), -1)
    start = first - first // 4 * 4
    return flat[:, start : start + stop - first]


def _product(a: int, b: Words) -> tuple[Words, Words]:
    """Return the upper and lower 64 bits of products."""
    a_low, a_high = np.uint64(a) & _LOW, np.uint64(a) >> _HALF
    b_low, b_high = b & _LOW, b >> _HALF
    cross = a_low * b_high
    middle = ((a_low * b_low) >> _HALF) + (cross & _LOW) + a_high * b_low
    return a_high * b_high + (cross >> _HALF) + (middle >> _HALF), np.uint64(a) * b


class RowDraws:
    """Draws for rows, the first dimension of every array, each by the inverse of its distribution function.

    It has those methods of `numpy.random.Generator` that `sample` of the components calls; see `generator`. What is
    drawn for a row depends on the seed, its position, and what was drawn for it before.

    Parameters
    ----------
    seed : int
        At least 0.
    index : range or ndarray of int64
        Positions of the rows.
    used : int
        How many numbers of the streams have been used.
    """

    def __init__(self, seed: int, index: range | NDArray[np.int64], used: int = 0) -> None:
        self._seed, self._index, self._used = seed, np.asarray(index, dtype=np.int64), used

    @property
    def generator(self) -> Any:
        """Itself, as what stands for a generator."""
        return self

    def take(self, which: slice | NDArray[Any]) -> RowDraws:
        """Return what goes on for some of the rows."""
        return RowDraws(self._seed, self._index[which], self._used)

    def random(self, size: Any) -> Array:
        """Draw numbers between 0 and 1, neither of them; of a `size` whose first extent is that of the rows."""
        shape = (size,) if np.ndim(size) == 0 else tuple(size)
        n_more = int(np.prod(shape[1:], dtype=np.int64))
        words = philox(self._seed, self._index, self._used, self._used + n_more)
        self._used += n_more
        return ((words >> np.uint64(11)).astype(np.float64) + 0.5).reshape(shape) * 2.0**-53

    def standard_normal(self, size: Any) -> Array:
        """Draw standard normal numbers."""
        return np.asarray(ndtri(self.random(size)))

    def normal(self, size: Any) -> Array:
        """Draw standard normal numbers."""
        return self.standard_normal(size)

    def exponential(self, scale: Array) -> Array:
        """Draw from exponential distributions by their means."""
        return np.asarray(-np.log(self.random(scale.shape)) * scale)

    def gamma(self, shape: Array, scale: Array) -> Array:
        """Draw from gamma distributions."""
        return np.asarray(gammaincinv(shape, self.random(shape.shape)) * scale)

    def beta(self, a: Array, b: Array) -> Array:
        """Draw from beta distributions."""
        return np.asarray(betaincinv(a, b, self.random(a.shape)))

    def vonmises(self, mu: Array, kappa: Array) -> Array:
        """Draw angles from von Mises distributions, by bisection."""
        from scipy import stats  # noqa: PLC0415 - its import takes half a second

        shares, lower, upper = self.random(mu.shape), np.full(mu.shape, -np.pi), np.full(mu.shape, np.pi)
        for _ in range(52):
            middle = 0.5 * (lower + upper)
            below = stats.vonmises.cdf(middle, kappa) < shares
            lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
        return np.asarray(np.remainder(mu + lower + np.pi, 2.0 * np.pi) - np.pi)

    def poisson(self, lam: Array) -> NDArray[np.int64]:
        """Draw from Poisson distributions by their means."""
        return self._counts(lambda stats: stats.poisson, lam)

    def binomial(self, n: int, p: Array) -> NDArray[np.int64]:
        """Draw numbers of successes among `n`."""
        return self._counts(lambda stats: stats.binom, p, n)

    def geometric(self, p: Array) -> NDArray[np.int64]:
        """Draw numbers of trials up to the first success."""
        return self._counts(lambda stats: stats.geom, p)

    def _counts(self, kind: Callable[[Any], Any], parameter: Array, *first: Any) -> NDArray[np.int64]:
        from scipy import stats  # noqa: PLC0415 - its import takes half a second

        return np.asarray(kind(stats).ppf(self.random(parameter.shape), *first, parameter), np.int64)
