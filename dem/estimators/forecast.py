"""A plan: what a fit will need, in numbers and in words, and what will not work."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from dem.estimators.memory import ENDS_AT
from dem.units import Column, html_table, human_bytes, human_count, human_seconds, plural

# More time than this is worth a remark.
LONG = 86_400.0


@dataclass(frozen=True, repr=False)
class Plan:
    """What a fit will need; sizes in bytes, decoded, and times in seconds.

    Attributes
    ----------
    name : str
        What messages call the data.
    n_rows, n_features, data_bytes : int
    n_chunks, chunk_bytes : int or None
        Chunks of a zarr array (shards, where it has them) and their size.
    n_reads, read_bytes : int
        What dem reads at once: whole chunks, small ones together.
    n_tasks : int
        Of each pass.
    n_workers : int
        Worker processes; 0 for threads of this process.
    n_threads : int
        Chunks that are worked on at the same time.
    memory_limit : int or None
        Of each worker, or what is free on this machine for threads.
    memory : dict of str to int
        What the memory of a worker, or of this process, is needed for.
    cache_bytes : int
        Decoded chunks that all workers together keep from pass to pass.
    driver_bytes : int
        What this process needs for the sample and the start, beside the threads.
    measured_on : str
        Where the times come from.
    reading_seconds, arithmetic_seconds : float
        Of a pass, each alone; reading is NaN if the data could not be read.
    pass_seconds, next_pass_seconds : float
        Wall time of the first pass, and of those that find chunks in the cache.
    passes : tuple of float, or None
        Expected until within 1e-3 nats per row of the limit: the least and the most of what was counted.
    exact_passes : tuple of float, or None
        The same until within 1e-6.
    max_iter : int
        Passes at most, beside the first one for the sample.
    problems : list of str
        What will not work, or not well, and what to do.
    """

    name: str
    n_rows: int
    n_features: int
    data_bytes: int
    n_chunks: int | None
    chunk_bytes: int | None
    n_reads: int
    read_bytes: int
    n_tasks: int
    n_workers: int
    n_threads: int
    memory_limit: int | None
    memory: dict[str, int]
    cache_bytes: int
    driver_bytes: int
    measured_on: str
    reading_seconds: float
    arithmetic_seconds: float
    pass_seconds: float
    next_pass_seconds: float
    passes: tuple[float, float] | None
    exact_passes: tuple[float, float] | None
    max_iter: int
    problems: list[str] = field(default_factory=list)

    @property
    def memory_bytes(self) -> int:
        """Memory that a worker, or this process with its threads, needs without any cache."""
        return sum(self.memory.values())

    def fit_seconds(self, passes: float) -> float:
        """Return the wall time of a fit of so many passes, and one more for the sample."""
        return self.pass_seconds + passes * self.next_pass_seconds

    def figures(self) -> dict[str, Any]:
        """Return all figures by name, for machines."""
        return {
            **asdict(self),
            "memory_bytes": self.memory_bytes,
            "fit_seconds": [self.fit_seconds(min(n, self.max_iter)) for n in self.passes or ()],
        }

    def __repr__(self) -> str:
        lines = self.lines()
        width = max(len(name) for name, _ in lines)
        text = [f"{name:<{width}}  {value}" for name, value in lines]
        return "\n".join([*text, *(f"! {problem}" for problem in self.problems)])

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        names, texts = zip(*self.lines(), *(("!", problem) for problem in self.problems), strict=True)
        return html_table([Column("", names, is_key=True, is_text=True), Column("", texts, is_text=True)])

    def lines(self) -> list[tuple[str, str]]:
        """Return what there is to say, as pairs of a name and a text."""
        where = f"{self.n_workers} workers" if self.n_workers else f"{self.n_threads} threads of this process"
        holder = "each worker" if self.n_workers else "this process"
        needs = ", ".join(f"{human_bytes(size)} {what}" for what, size in self.memory.items())
        limit = f" of {human_bytes(self.memory_limit)}" if self.memory_limit else ""
        alone = f"reading {_seconds(self.reading_seconds)}, arithmetic {_seconds(self.arithmetic_seconds)}, each alone"
        lines = [
            ("data", f"{self.name}: {self.n_rows:,} rows x {self.n_features}, {human_bytes(self.data_bytes)} decoded"),
            ("reads", f"{self.n_reads:,} of {human_bytes(self.read_bytes)}, in {plural(self.n_tasks, 'task')}"),
            ("memory", f"{holder} needs {human_bytes(self.memory_bytes)}{limit}: {needs}"),
            ("start", f"this process needs {human_bytes(self.driver_bytes)} for the sample and the start"),
            ("measured on", self.measured_on),
            ("a pass", f"{_seconds(self.pass_seconds)} on {where} ({alone})"),
        ]
        if self.n_chunks is not None and self.chunk_bytes is not None:
            lines.insert(1, ("chunks", f"{self.n_chunks:,} of {human_bytes(self.chunk_bytes)}"))
        if self.cache_bytes:
            share = self.cache_bytes / self.data_bytes
            later = f"{_seconds(self.next_pass_seconds)} a pass after the first"
            lines.append(("cache", f"{human_bytes(self.cache_bytes)}, {share:.0%} of the data; {later}"))
        if self.passes is None or self.exact_passes is None:
            text = f"not counted for this model; at most {self.max_iter} and one for the sample"
            return [*lines, ("passes", text), ("in all", f"at most {_seconds(self.fit_seconds(self.max_iter))}")]
        for passes, near in ((self.passes, "1e-3"), (self.exact_passes, "1e-6")):
            capped = f", cut at max_iter={self.max_iter}," if passes[1] > self.max_iter else ""
            text = _range(f"{math.ceil(n):,}" for n in passes)
            times = _range(_seconds(self.fit_seconds(min(n, self.max_iter))) for n in passes)
            lines.append((f"to {near} nats", f"{text} passes{capped} and one for the sample: {times}"))
        source = "smallest and largest median of four data sets in docs/algorithms.md, for Gaussian mixtures"
        return [*lines, ("passes from", f"{source}; yours may differ")]


def _seconds(seconds: float) -> str:
    if math.isnan(seconds):
        return "unknown"
    return human_seconds(seconds) if seconds >= 0.05 else "under 0.1 s"


def _range(ends: Iterable[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def foreseen(
    found: Plan, estimator: Any, n_components: int, free: int, remedy: str, *, shared: bool = False
) -> list[str]:
    """Return what will not work, or not well, and what to do about it; `shared` tells that no limit was given.

    `remedy` is what lessens the memory that is needed.
    """
    problems = []
    if found.n_rows < max(n_components, 2):
        problems.append(f"{found.n_rows:,} rows are too few for {n_components:,} components: decrease their number")
    elif getattr(estimator, "covariance_type", "") in ("full", "VVV", "EVV") and found.n_rows < n_components * (
        found.n_features + 1
    ):
        problems.append(
            f"{found.n_rows / n_components:.3g} rows for each component do not determine {found.n_features} x "
            f"{found.n_features} covariances: take diag covariances, or fewer components"
        )
    if found.memory_limit is not None and found.memory_bytes > ENDS_AT * found.memory_limit:
        whose = "each worker" if found.n_workers else "this process"
        is_what = (
            "is its share of this machine's memory (memory_limit says that of another)" if shared else "is its limit"
        )
        limit = f"{human_bytes(found.memory_limit)} {is_what if found.n_workers else 'are free here'}"
        problems.append(f"{whose} needs {human_bytes(found.memory_bytes)}, and {limit}: {remedy}")
    if found.driver_bytes > free:
        problems.append(
            f"the start needs {human_bytes(found.driver_bytes)} in this process, and {human_bytes(free)} are free: "
            "take fewer rows for the sample (sample_rows)"
        )
    if found.n_tasks < found.n_threads and found.pass_seconds > 1.0:
        problems.append(
            f"{found.n_tasks:,} tasks keep only as many of {found.n_threads:,} cores busy: store smaller chunks, or "
            "take fewer workers"
        )
    if found.chunk_bytes is not None and found.n_chunks is not None and found.chunk_bytes < 2**16 < found.n_chunks:
        problems.append(
            f"{found.n_chunks:,} chunks of {human_bytes(found.chunk_bytes)} each cost a file or a request: store "
            "chunks of some MB, or shards"
        )
    long = found.passes and found.fit_seconds(found.passes[1])
    if long and long > LONG:
        cores = math.ceil(found.n_threads * long / LONG)
        problems.append(
            f"up to {_seconds(long)} for the first digits: about {human_count(cores)} cores like these would take "
            "a day, if the store is as fast; algorithm='auto' needs the fewest passes"
        )
    return problems
