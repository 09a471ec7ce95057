"""Put tables and figures between the markers of docs/*.md and draw the pictures there, from benchmarks/results/*.json.

    .venv/bin/python benchmarks/report.py
    .venv/bin/python benchmarks/report.py --check    # change nothing; fail where a page says something else

A marker with its end on the same line holds a figure in a sentence, `<!-- bench:x -->0.3<!-- /bench:x -->`; any other
holds lines of its own.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable

import checkpoints
import families
import growth
import kmeans
import maxima
import memory
import out_of_core
import passes
import peers
import plots
import predicting
import reads_tables
import remote
import rows
import scheduling
import soak
import starts
import startup
import truncated
import truncated_growth
from common import DOCS, load

PAGES = (
    DOCS / "performance.md",
    DOCS / "algorithms.md",
    DOCS / "numerics.md",
    DOCS / "reliability.md",
    DOCS / "rows.md",
)
MARKERS = re.compile(r"(<!-- bench:([\w-]+) -->)(.*?)(<!-- /bench:\2 -->)", re.DOTALL)
TASK_SECONDS = growth.TASK_SECONDS


def machine_line(result: dict) -> str:
    """Say on which machine, with which BLAS and under which load."""
    found = result["machine"]
    blas = ", ".join(
        f"{pool['internal_api']} {pool['version']} {pool['architecture']}"
        for pool in found["blas"]
        if pool["architecture"]
    )
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return (
        f"{found['processor']}, {found['cores']} cores, load {found['load_at_start'][0]} at the start; {blas}; "
        f"Python {found['python']}, {versions}."
    )


def on_paper(result: dict) -> str:
    """Say what a pass over 100 TB on 1,000 workers takes, from what was measured here."""
    row = next(
        row for row in result["rows"] if row["codec"] == "zstd" and row["where"] == "processes" and row["cache"] == "0"
    )
    cores, workers, terabytes = 2, 1000, 100.0
    gigabytes, cpu = result["gigabytes"], row["cpu_seconds"]
    per_worker = terabytes * 1e3 / workers  # GB
    arithmetic, reading = (per_worker * cpu[what] / gigabytes for what in ("arithmetic", "reading"))
    whole = per_worker * row["seconds"]["pass"] * cores / gigabytes
    chunks = terabytes * 1e12 / out_of_core.CHUNK_BYTES
    batches = 4 * math.isqrt(int(chunks))
    tasks = batches * 17 / 16
    n_features, n_components = result["d"], result["K"]
    parameters = n_components * (n_features + 2 * n_features**2) * 8
    statistics = n_components * (1 + n_features + n_features**2) * 8
    stored = row["stored_gigabytes"] / gigabytes
    scheduler = tasks * TASK_SECONDS
    items = {
        "rows": f"{terabytes * 1e12 / (8 * n_features):.2g} of {n_features} float64, K = {n_components} full; "
        f"{chunks:,.0f} chunks of 16 MB in {batches:,} batches; {per_worker:.0f} GB a worker.",
        "arithmetic": f"{arithmetic:.0f} s of each core; **decoding** zstd: {reading:.0f} s; both, at the pace of a "
        f"measured pass: **{whole:.0f} s** ({whole / 60:.1f} minutes).",
        "storage": f"{stored:.2f} bytes stored per byte decoded: {stored * terabytes * 1e3 / whole:,.0f} GB/s in all, "
        f"{8 * stored * per_worker / whole:.2f} Gbit/s for each worker.",
        "scheduler": f"{tasks:,.0f} tasks of {1e3 * TASK_SECONDS:.1f} ms are {scheduler:.0f} s, spread over the pass: "
        f"{scheduler / whole:.0%} of it.",
        "imbalance": f"{batches / workers:.0f} batches a worker: the last one can cost {workers / batches:.0%}.",
        "parameters": f"{parameters / 1e3:.0f} kB to each worker, {parameters * workers / 1e9:.1f} GB in all; "
        f"**statistics**: {statistics / 1e3:.0f} kB from each batch, {statistics * batches / 1e9:.1f} GB in the tree.",
    }
    return "\n".join(f"- **{name}**: {text}" for name, text in items.items())


def passes_text(result: dict) -> str:
    return machine_line(result) + "\n\n" + passes.summary(result["passes"])


SECTIONS: dict[str, tuple[str, Callable[[dict], str]]] = {
    "passes": ("passes", passes_text),
    "passes-missed": ("passes", lambda result: passes.missed(result["passes"])),
    "passes-lost": ("passes", lambda result: passes.lost(result["passes"])),
    "passes-peak": ("passes", lambda result: passes.peak_share(result["passes"])),
    "denormals": ("denormals", passes.denormal_text),
    "peers": ("peers", lambda result: machine_line(result) + "\n\n" + peers.summary(result["rows"], result["missing"])),
    "families": ("families", lambda result: machine_line(result) + "\n\n" + families.summary(result)),
    "families-slower": ("families", families.slower),
    "kmeans": ("kmeans", lambda result: machine_line(result) + "\n\n" + kmeans.summary(result)),
    "kmeans-missed": ("kmeans", kmeans.missed),
    "predicting": ("predicting", predicting.summary),
    "out-of-core": ("out_of_core", out_of_core.summary),
    "remote": ("remote", remote.summary),
    "growth": ("growth", growth.summary),
    "element": ("growth", lambda result: f"{1e9 * result['costs']['element']:.1f}"),
    "chunk": ("growth", lambda result: f"{1e6 * result['costs']['chunk']:.0f}"),
    "scheduling": ("scheduling", scheduling.summary),
    "truncated": ("truncated", truncated.summary),
    "truncated-growth": ("truncated_growth", truncated_growth.summary),
    "startup": ("startup", startup.summary),
    "paper": ("out_of_core", on_paper),
    "starts": ("starts", starts.summary),
    "maxima": ("maxima", maxima.summary),
    "rows": ("rows", rows.cost_table),
    "checkpoints": ("checkpoints", checkpoints.cost_table),
    "soak": ("soak", soak.soak_table),
    "memory": ("memory", memory.memory_table),
    "reads": ("reads", reads_tables.reads),
    "reads-targets": ("reads", reads_tables.targets),
    "squarem": ("reads", reads_tables.squarem),
    **{f"reads-{name}": ("reads", make) for name, make in reads_tables.FIGURES.items()},
}


def filled(text: str, used: set[str]) -> str:
    """Return a page with what the results say between its markers; add the names of the markers to `used`."""

    def fill(match: re.Match) -> str:
        begin, section, old, end = match.groups()
        if section not in SECTIONS:
            sys.exit(f"no script makes bench:{section}")
        used.add(section)
        name, make = SECTIONS[section]
        result = load(name)
        made = f"not measured yet (`benchmarks/{name}.py`)" if result is None else make(result)
        return f"{begin}\n\n{made}\n\n{end}" if "\n" in old else f"{begin}{made}{end}"

    return MARKERS.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a page says something else")
    options = parser.parse_args()
    used: set[str] = set()
    pages = {page: filled(page.read_text(), used) for page in PAGES}
    if SECTIONS.keys() - used:
        sys.exit(f"no page has markers for {', '.join(sorted(SECTIONS.keys() - used))}")
    if options.check:
        stale = [page.name for page, text in pages.items() if text != page.read_text()]
        sys.exit(f"not what benchmarks/results say: {', '.join(stale)}; run benchmarks/report.py" if stale else 0)
    for page, text in pages.items():
        page.write_text(text)
    print(f"written: {', '.join(page.name for page in PAGES)}; docs/images: {', '.join(plots.draw())}")


if __name__ == "__main__":
    main()
