"""What users would pick instead: Armadillo, Spark MLlib, pomegranate, and a fused loop in numba.

    .venv/bin/python benchmarks/peers.py      # five minutes; installs them into benchmarks/.peers first

Each runs as a process of its own and is asked for iterations in turn with dem. Each is optional: what cannot be
installed is left out with the reason. Writes benchmarks/results/peers.json after each shape.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from common import HERE, SHAPES, announce, dem_passes, label, median, mixture_rows, save, seconds_text, start_of, table
from conversation import LateError, Partner

HOME = HERE / ".peers"
PYTHON = HOME / "venv" / "bin" / "python"
ARMADILLO = HOME / "armadillo"
PACKAGES = {
    "spark": ["pyspark", "pyarrow", "numpy"],
    "numba": ["numba"],
    "pomegranate": ["torch==2.13.0", "pomegranate"],
}
COVARIANCES = {"armadillo": ("full", "diag"), "spark": ("full",), "pomegranate": ("full", "diag"), "numba": ("full",)}
NUMBA_FEATURES = 8  # beyond, it is far behind the matrix product and only costs time


def install() -> dict[str, str]:
    """Install all peers; return why, for those that could not be."""
    HOME.mkdir(exist_ok=True)
    missing = {}
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", HOME / "venv"], check=True)
    for name, packages in PACKAGES.items():
        missing.update(_install_package(name, packages))
    if "spark" not in missing and not shutil.which("java"):
        missing["spark"] = "there is no java on this machine"
    missing.update(build_armadillo())
    for name, reason in missing.items():
        print(f"{name} is left out: {reason}", flush=True)
    return missing


def _install_package(name: str, packages: list[str]) -> dict[str, str]:
    stamp = HOME / f"{name}.installed"
    if stamp.exists() and stamp.read_text() == " ".join(packages):
        return {}
    print(f"installing {name} into {HOME.relative_to(HERE.parent)}", flush=True)
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        return {name: (outcome.stderr.strip().splitlines() or ["pip failed"])[-1]}
    stamp.write_text(" ".join(packages))
    return {}


def build_armadillo() -> dict[str, str]:
    """Build its side; return why not, if that cannot be."""
    HOME.mkdir(exist_ok=True)
    source = HERE / "peer_armadillo.cpp"
    if ARMADILLO.exists() and ARMADILLO.stat().st_mtime > source.stat().st_mtime:
        return {}
    compiler = shutil.which("g++")
    if not compiler:
        return {"armadillo": "there is no g++ on this machine"}
    command = [compiler, "-O3", "-march=native", "-DNDEBUG", "-fopenmp", source, "-o", ARMADILLO, "-larmadillo"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode:
        hint = "install Debian's libarmadillo-dev" if "armadillo: No such file" in outcome.stderr else "g++ failed"
        return {"armadillo": hint}
    return {}


@dataclass
class Peer:
    """One peer on one shape.

    Attributes
    ----------
    limit : float
        Seconds that it may spend on this shape after it has read the rows.
    used : float
        Seconds spent so far.
    """

    name: str
    limit: float
    seconds: list[float] = field(default_factory=list)
    first: float | None = None
    note: str = ""
    partner: Partner | None = None
    used: float = 0.0

    def start(self, path: Path, shape: tuple[int, int, int, str]) -> None:
        """Start the process and let it read the rows."""
        program = [ARMADILLO] if self.name == "armadillo" else [PYTHON, HERE / f"peer_{self.name}.py"]
        log = HOME / f"{self.name}.log"
        try:
            self.partner = Partner([*program, path, *map(str, shape)], 120, log=log)
        except (LateError, RuntimeError) as error:
            self.note = _reason(error)

    def measure(self, repeats: int) -> None:
        """Ask for one more iteration unless the limit is used up."""
        if self.partner is None or self.used >= self.limit or len(self.seconds) >= repeats:
            return
        began = time.monotonic()
        try:
            if self.partner.ready.get("start_free"):
                self.seconds.append(self._ask(1))
            elif self.first is None or self.first < self.limit / 3:
                if self.first is None:
                    self.first = self._ask(1)  # a JVM is slow until it is warm
                if self.first < self.limit / 3:
                    self._difference()
        except LateError:
            self.partner = None
            if not self.seconds:
                self.note = f"over {self.limit:.0f} s"
        except RuntimeError as error:
            self.partner, self.note = None, _reason(error)
        self.used += time.monotonic() - began

    def stop(self) -> dict:
        """End the process and return what was measured."""
        version = self.partner.ready.get("version") if self.partner else None
        if self.partner:
            self.partner.close()
        if not self.seconds and self.first is not None:
            self.seconds.append(self.first)
            self.note = "start included"
        return {
            "seconds": median(self.seconds) if self.seconds else None,
            "all": self.seconds,
            "note": self.note,
            "version": version,
        }

    def _ask(self, iterations: int) -> float:
        answer = self.partner.ask(str(iterations), max(self.limit - self.used, 1.0))
        if answer.get("uniform"):
            self.note = "stuck: uniform γ"
        return answer["seconds"]

    def _difference(self) -> None:
        """Note the seconds of an iteration without the start."""
        more = 1 if self.first > 2.0 else 4
        more = 2 if self.name == "spark" else more
        one = self._ask(1)
        seconds = (self._ask(1 + more) - one) / more
        if seconds > 0.0:
            self.seconds.append(seconds)


def _reason(error: Exception) -> str:
    text = str(error)
    return "failed: not positive-definite" if "positive-definite" in text else f"failed: {text[:80]}"


# The benchmark --------------------------------------------------------------------------------------------------


def compare(shape: tuple[int, int, int, str], repeats: int, rivals: list[Peer]) -> dict:
    """Time dem and its peers alternately on one shape, in float64."""
    n_rows, n_features, n_components, covariance = shape
    rows = mixture_rows(n_rows, n_features, n_components)
    start = start_of(rows, n_components, covariance)
    passes = []
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "rows.f8"
        rows.tofile(path)
        for rival in rivals:
            rival.start(path, shape)
        for _ in range(repeats):
            passes.append(median(dem_passes(rows, n_components, 3, covariance_type=covariance, **start)))
            for rival in rivals:
                rival.measure(repeats)
        found = {rival.name: rival.stop() for rival in rivals}
    sizes = {"n": n_rows, "d": n_features, "K": n_components, "covariance": covariance}
    return sizes | {"dem_seconds": median(passes), "peers": found}


def summary(rows: list[dict], missing: dict[str, str]) -> str:
    """Return the table of dem beside the other peers, in seconds per iteration and, in brackets, as ratios."""
    names = [name for name in COVARIANCES if any(name in row["peers"] for row in rows)]

    def cell(row: dict, name: str) -> str:
        found = row["peers"].get(name)
        if found is None:
            return "–"
        if found["seconds"] is None:
            return found["note"] or "–"
        note = f", {found['note']}" if found["note"] else ""
        return f"{seconds_text(found['seconds'])} ({found['seconds'] / row['dem_seconds']:.0f}×{note})"

    cells = [[label(row), seconds_text(row["dem_seconds"]), *(cell(row, name) for name in names)] for row in rows]
    notes = "".join(f"\n\n{name} was left out: {reason}." for name, reason in missing.items())
    return table(["n, d, K", "dem s", *(f"{name} s" for name in names)], cells) + notes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows, for a quick look")
    parser.add_argument("--peers", default=",".join(COVARIANCES), help="comma-separated")
    parser.add_argument(
        "--limit", type=float, default=20.0, help="seconds for each peer on each shape; Spark has twice as many"
    )
    options = parser.parse_args()
    described, missing = announce("EM iterations beside other libraries"), install()
    result = {"machine": described, "missing": missing, "rows": []}
    for n_rows, n_features, n_components, covariance, _ in SHAPES:
        shape = (max(int(n_rows * options.scale), 10 * n_components), n_features, n_components, covariance)
        rivals = [
            Peer(name, options.limit * (2 if name == "spark" else 1))
            for name in options.peers.split(",")
            if name not in missing
            and covariance in COVARIANCES[name]
            and (name != "numba" or n_features <= NUMBA_FEATURES)
        ]
        row = compare(shape, options.repeats, rivals)
        result["rows"].append(row)
        print(label(row), seconds_text(row["dem_seconds"]), row["peers"], flush=True)
        save("peers", result)
    print("\n" + summary(result["rows"], missing))


if __name__ == "__main__":
    main()
