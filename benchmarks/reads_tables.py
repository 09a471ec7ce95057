"""The tables of docs/algorithms.md, from benchmarks/results/reads.json."""

from __future__ import annotations

import math

from common import median, table
from reads import ALGORITHMS, DISTANCES, MOST, MOST_EM_STEPS, PROBLEMS

BATCH, SQUAREM, IN_SEQUENCE, IN_FLIGHT, STEPWISE = ALGORITHMS[:5]
SAMPLE_BATCH = ALGORITHMS[5]


def count_text(value: float) -> str:
    """Return a number of reads; many count as more than the benchmark allows."""
    return f"> {MOST}" if not math.isfinite(value) else f"{value:g}"


def per_seed(runs: list[dict], name: str, distance: float) -> list[float]:
    """Return the reads of every seed."""
    return [run[name]["reads"][str(distance)] for run in runs]


def median_reads(runs: list[dict], name: str, distance: float) -> float:
    return median(per_seed(runs, name, distance))


def shares(runs: list[dict], name: str, distance: float, of: str = BATCH) -> list[float]:
    """Return the reads of each seed as a share of those of another algorithm, for seeds where both are known."""
    pairs = zip(per_seed(runs, name, distance), per_seed(runs, of, distance), strict=True)
    return [ours / theirs for ours, theirs in pairs if math.isfinite(ours) and math.isfinite(theirs)]


def reads(result: dict) -> str:
    """Return a table for each problem side by side: median reads until 1e-3, 1e-4, 1e-6."""
    header = ["reads until 1e-3 / 1e-4 / 1e-6", *result["runs"]]
    rows = [
        [name]
        + [
            " / ".join(count_text(median_reads(runs, name, distance)) for distance in DISTANCES)
            for runs in result["runs"].values()
        ]
        for name in ALGORITHMS
    ]
    seeds = len(next(iter(result["runs"].values())))
    texts = "\n".join(
        f"- **{problem.name}**: {problem.text}." for problem in PROBLEMS if problem.name in result["runs"]
    )
    return f"Medians over {seeds} seeds.\n\n{texts}\n\n{table(header, rows)}"


def targets(result: dict) -> str:
    """Return what the issue of this benchmark asked for beside what was measured, problem by problem."""
    runs, starts = result["runs"], result["starts"]

    def share_text(problem: str, name: str, distance: float) -> str:
        values = shares(runs[problem], name, distance)
        return f"{median(values):.2f}" if values else "–"

    def gap_text(problem: str) -> str:
        gaps = [
            ten["limit"] - run[SAMPLE_BATCH]["limit"] for ten, run in zip(starts[problem], runs[problem], strict=True)
        ]
        close = sum(gap <= 1e-4 for gap in gaps)
        return f"{close} of {len(gaps)} (median {median(gaps):.1g})"

    lines = {
        "incremental, in sequence, of batch's reads at 1e-6 (≤ 0.55)": lambda p: share_text(p, IN_SEQUENCE, 1e-6),
        "incremental, in sequence, at 1e-4": lambda p: share_text(p, IN_SEQUENCE, 1e-4),
        "incremental, 4 of 40 in flight, at 1e-6 (≤ 0.62)": lambda p: share_text(p, IN_FLIGHT, 1e-6),
        "incremental, 4 of 40 in flight, at 1e-4": lambda p: share_text(p, IN_FLIGHT, 1e-4),
        "SQUAREM at 1e-6": lambda p: share_text(p, SQUAREM, 1e-6),
        "sample, then batch: reads until 1e-3 (≤ 5)": lambda p: count_text(median_reads(runs[p], SAMPLE_BATCH, 1e-3)),
        "sample, then batch: of batch's reads at 1e-4 (≤ 0.33)": lambda p: share_text(p, SAMPLE_BATCH, 1e-4),
        "sample, then batch: within 1e-4 of the best of 10 full starts": gap_text,
    }
    rows = [[text] + [cell(problem) for problem in runs] for text, cell in lines.items()]
    return table(["", *runs], rows)


def squarem(result: dict) -> str:
    """Return EM steps until 1e-8 from the limit, without and with SQUAREM."""
    rows = []
    for row in result["squarem"]:
        steps = [median(count[name] for count in row["counts"]) for name in ("EM", "SQUAREM")]
        # Where EM has not arrived, as if it had just then: a lower bound.
        ratios = [min(count["EM"], MOST_EM_STEPS) / count["SQUAREM"] for count in row["counts"]]
        cells = [f"> {MOST_EM_STEPS:,}" if math.isinf(step) else f"{step:,g}" for step in steps]
        spread = f"{min(ratios):.0f} to {max(ratios):.0f}"
        name = f"{row['covariance']}, {row['separation']:g} σ apart"
        rows.append([name, *cells, f"{median(ratios):.0f}", spread])
    header = ["two Gaussians, 2,000 numbers", "EM steps", "with SQUAREM", "ratio (≥ 30)", "over the seeds"]
    return table(header, rows)


# Figures in sentences -----------------------------------------------------------------------------------------------


def span(result: dict, name: str) -> str:
    """Return between which shares of batch's reads the medians of an algorithm lie, to 1e-6 and over the problems."""
    found = [median(shares(runs, name, 1e-6)) for runs in result["runs"].values()]
    return f"{min(found):.2f} to {max(found):.2f}"


def ahead(result: dict) -> str:
    """Say where SQUAREM was not the first, from a single start."""
    cases = [
        f"{name} on *{problem}* until {distance:.0e} ({ours:g} reads against {theirs:g})".replace("e-0", "e-")
        for problem, runs in result["runs"].items()
        for distance in DISTANCES
        for name in (BATCH, IN_SEQUENCE, IN_FLIGHT, STEPWISE)
        if (ours := median_reads(runs, name, distance)) < (theirs := median_reads(runs, SQUAREM, distance))
    ]
    return "; ".join(cases) or "nowhere"


def gains(result: dict, covariance: str) -> str:
    """Say how many times as few steps SQUAREM needs: medians, from the least to the most over the separations."""
    ratios = [
        median(min(count["EM"], MOST_EM_STEPS) / count["SQUAREM"] for count in row["counts"])
        for row in result["squarem"]
        if row["covariance"] == covariance
    ]
    return f"{min(ratios):.0f} to {max(ratios):.0f}"


def most_gained(result: dict) -> str:
    """Say where SQUAREM saved most of all."""
    counts = [count for row in result["squarem"] for count in row["counts"]]
    best = max(counts, key=lambda count: min(count["EM"], MOST_EM_STEPS) / count["SQUAREM"])
    return f"{best['SQUAREM']:g} steps instead of {min(best['EM'], MOST_EM_STEPS):,g}"


FIGURES = {
    "squarem-share": lambda result: span(result, SQUAREM),
    "incremental-share": lambda result: span(result, IN_FLIGHT),
    "in-sequence-share": lambda result: span(result, IN_SEQUENCE),
    "ahead": ahead,
    "tied-gains": lambda result: gains(result, "tied"),
    "full-gains": lambda result: gains(result, "full"),
    "most-gained": most_gained,
}
