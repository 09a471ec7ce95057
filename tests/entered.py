"""Counts what of dem is entered between `fit("x.zarr")` and the arithmetic: `python tests/entered.py`.

Counts are code objects that `sys.setprofile` and `threading.setprofile` see in the second fit of a process, so that
imports are over. Functions, methods and properties count; lambdas, comprehensions and generator expressions belong to
the function that they stand in, and a function that is entered often counts once. Files are those in which a function
is entered. The arithmetic itself, `families`, counts among the functions, and its files are told apart.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import numpy as np
import sklearn.mixture
import zarr

import dem
from dem import GaussianMixture

ARITHMETIC = "families/"


class Entered(NamedTuple):
    """What of a package was entered."""

    #: how many files outside the arithmetic, and in all
    n_files: int
    n_files_in_all: int
    n_functions: int
    #: how many functions of each file
    files: Counter[str]


def entered(package: Path, call: Callable[[], Any]) -> Entered:
    """Call, and return which functions of the package were entered, in all threads."""
    seen: set[CodeType] = set()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    named = [code for code in seen if not code.co_name.startswith("<")]
    paths = [Path(code.co_filename) for code in named]
    files = Counter(path.relative_to(package).as_posix() for path in paths if path.is_relative_to(package))
    outside = [path for path in files if not path.startswith(ARITHMETIC)]
    return Entered(len(outside), len(files), files.total(), files)


def by_a_fit(folder: Path) -> Entered:
    """Return what of dem a fit of a small zarr array enters."""
    path = folder / "x.zarr"
    zarr.create_array(path, data=_rows(), chunks=(100, 3))
    GaussianMixture(2, random_state=0).fit(str(path))
    return entered(Path(dem.__file__).parent, lambda: GaussianMixture(2, random_state=0).fit(str(path)))


def by_scikit_learn() -> Entered:
    """Return what of scikit-learn the same fit enters, of an array in memory."""
    rows = _rows()
    sklearn.mixture.GaussianMixture(2, random_state=0).fit(rows)
    package = Path(sklearn.__file__).parent
    return entered(package, lambda: sklearn.mixture.GaussianMixture(2, random_state=0).fit(rows))


def _rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=(500, 3)), 5.0 + rng.normal(size=(500, 3))])


def main() -> None:
    """Write what both enter."""
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, found in {"dem": by_a_fit(Path(folder)), "scikit-learn": by_scikit_learn()}.items():
            files = f"{found.n_files} files outside {ARITHMETIC}, {found.n_files_in_all} in all"
            lines.append(f"{name}: {files}, {found.n_functions} functions")
            lines += [f"  {number:3} {path}" for path, number in sorted(found.files.items())]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
