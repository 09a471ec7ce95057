"""What it takes to begin: `import dem` beside `import sklearn.mixture`, and `dem --help`.

    .venv/bin/python benchmarks/startup.py

Each in a new process, alternately; the bare interpreter is taken off. Writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from common import announce, median, save, table, timed

HEAVY = ("dask", "distributed", "sklearn", "zarr", "scipy", "numpy", "rich")
COMMANDS = {
    "python": "pass",
    "numpy": "import numpy",
    "dem": "import dem",
    "dem.GaussianMixture": "from dem import GaussianMixture",
    "sklearn.mixture": "import sklearn.mixture",
    "dem --help": "import sys; sys.argv = ['dem', '--help']; from dem.__main__ import main; main()",
}
TARGET = 1 / 3


def run(code: str) -> str:
    """Run code in a new interpreter and return what it wrote to standard error."""
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return outcome.stderr


def loaded(name: str) -> list[str]:
    """Return which of the heavy packages a command loads."""
    report = (
        f"import sys, atexit; atexit.register(lambda: sys.stderr.write(' '.join(set(sys.modules) & {set(HEAVY)!r})))"
    )
    return sorted(run(f"{report}\n{COMMANDS[name]}").split())


def summary(result: dict) -> str:
    """Return the table, with the target."""
    seconds, bare = result["seconds"], result["seconds"]["python"]
    sklearn = seconds["sklearn.mixture"] - bare
    cells = []
    for name in COMMANDS:
        if name != "python":
            own = seconds[name] - bare
            target = f" ({TARGET:.2f})" if name == "dem" else ""
            heavy = ", ".join(result["loaded"][name]) or "none"
            cells.append([f"`{name}`", f"{own:.3f}", f"{own / sklearn:.2f}{target}", heavy])
    return table(["", "s beyond the interpreter", "of sklearn.mixture (target)", "heavy packages loaded"], cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    result = {"machine": announce("Start-up")}
    found = {name: loaded(name) for name in COMMANDS}  # also brings the files into the page cache
    timings: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.repeats):
        for name, code in COMMANDS.items():
            timings[name].append(timed(lambda code=code: run(code)))
    result |= {"seconds": {name: median(values) for name, values in timings.items()}, "loaded": found, "all": timings}
    print(summary(result))
    save("startup", result)


if __name__ == "__main__":
    main()
