"""Numbers of dem beside those of its peers, from the same rows and the same start: `make test-peers`.

Each file ``peers_*.py`` has `COMPARISONS`: by name what is compared with whom, a function that fits both and returns
the largest difference, relative to the size of what is compared, and how large it may be. As a script this one puts the
table of differences into docs/families.md, or another `PAGE` that the file names.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np

Comparisons: TypeAlias = dict[str, tuple[str, Callable[[], float], float]]
HERE = Path(__file__).parent
MARKERS = re.compile(r"(<!-- peers -->\n).*?(<!-- /peers -->)", re.DOTALL)
# Reads each array from its file, and says numbers, all of them to their last digit.
_PRELUDE = """
folder <- commandArgs(TRUE)[1]
for (file in list.files(folder, pattern = "csv$"))
    assign(sub(".csv", "", file), as.matrix(read.csv(file.path(folder, file), header = FALSE)))
say <- function(...) {
    numbers <- unlist(lapply(list(...), as.vector))
    writeLines(format(numbers, digits = 17, trim = TRUE), file.path(folder, "out.txt"))
}
"""


def difference(ours: object, theirs: object) -> float:
    """Return the largest difference, relative to the largest number."""
    one, other = np.asarray(ours, dtype=float), np.asarray(theirs, dtype=float)
    return float(np.abs(one - other).max() / np.abs(other).max())


def r(script: str, **arrays: object) -> np.ndarray:
    """Return the numbers that a script in R says with ``say(…)``; it finds the arrays, of two dimensions, by name."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        for name, array in arrays.items():
            np.savetxt(path / f"{name}.csv", np.asarray(array, dtype=float), delimiter=",")
        (path / "script.R").write_text(_PRELUDE + script)
        subprocess.run(["Rscript", path / "script.R", folder], check=True, timeout=300)
        return np.loadtxt(path / "out.txt", ndmin=1)


def collected() -> dict[str, Comparisons]:
    """Return the comparisons of all files, by the page of the docs that has their table."""
    pages: dict[str, Comparisons] = {}
    for path in sorted(HERE.glob("peers_*.py")):
        module = importlib.import_module(path.stem)
        pages.setdefault(getattr(module, "PAGE", "families.md"), {}).update(module.COMPARISONS)
    return pages


def main() -> None:
    """Write the tables into the docs."""
    for name, comparisons in collected().items():
        lines = ["| what | peer | largest relative difference |", "|---|---|---|"]
        lines += [f"| {what} | {compare():.0e} |" for what, compare, _ in comparisons.values()]
        text, page = "\n".join(lines) + "\n", HERE.parent / "docs" / name
        page.write_text(MARKERS.sub(lambda found: found[1] + text + found[2], page.read_text()))  # noqa: B023 - used at once
        sys.stdout.write(f"{name}\n{text}")


if __name__ == "__main__":
    main()
