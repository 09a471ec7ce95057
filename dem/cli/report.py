"""Results as tables for people and JSON for machines."""

from __future__ import annotations

import json
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from dem.cli.tables import console, print_columns, print_pairs
from dem.data.labels import coordinate_text
from dem.estimators.registry import entry_of
from dem.families.base import OK
from dem.units import Column, human_bytes, human_count, human_seconds, plural

# Columns of features in a table, and its rows, at most; JSON and the model have them all.
_MOST_FEATURES = 6
_MOST_COMPONENTS = 40


def print_json(figures: dict[str, Any]) -> None:
    """Print figures as JSON; numbers that are not finite become null."""
    plain = json.loads(json.dumps(figures, default=lambda array: array.tolist()), parse_constant=lambda _: None)
    click.echo(json.dumps(plain, indent=2))


def print_written(what: str, figures: dict[str, Any], as_json: bool, quiet: bool) -> None:
    """Print how many rows were written, where, and how fast."""
    n_rows, seconds = figures["n_rows"], figures["seconds"]
    if as_json:
        print_json(figures)
    elif not quiet:
        speed = f"{human_seconds(seconds)}, {human_count(n_rows / seconds)} rows/s"
        click.echo(f"{what}{n_rows:,} rows in {figures['out']} ({speed})")


def print_fit(estimator: Any, out: str | None, *, as_json: bool, status: str | None = None) -> None:
    """Print what a fit found; its status is whether it converged if nothing else is said."""
    figures = model_figures(estimator)
    if as_json:
        ended = "converged" if figures["converged"] else "not converged"
        print_json({"model": out, "status": status or ended, **figures})
        return
    seconds = sum(entry["seconds"] for entry in _reads(estimator))
    to = console()
    print_components(to, estimator)
    to.print(outcome(figures, f", {human_seconds(seconds)} reading and computing" if seconds else ""), highlight=False)
    if out is not None:
        to.print(f"saved in {out}", highlight=False, soft_wrap=True)


def print_selection(selection: Any, out: str | None, *, as_json: bool) -> None:
    """Print the models of a grid and the one that was chosen."""
    best = selection.table[selection.best_index]
    if as_json:
        figures = {"model": out, "criterion": selection.criterion, "reads": selection.reads, "best": best}
        print_json({**figures, "models": selection.table})
        return
    from dem.estimators.comparison import choice, selection_columns  # noqa: PLC0415

    to = console()
    print_columns(to, selection_columns(selection.table), strong=selection.best_index)
    for reason in dict.fromkeys(row["status"] for row in selection.table if ":" in row["status"]):
        to.print(Text(reason), soft_wrap=True)
    to.print(choice(selection), highlight=False)
    if out is not None:
        to.print(f"saved in {out}", highlight=False, soft_wrap=True)


def outcome(figures: dict[str, Any], took: str = "") -> str:
    """Return how a fit ended and what the model is worth on its data."""
    ended = "converged" if figures["converged"] else "not converged"
    inertia, per_row = figures.get("inertia"), figures.get("log_likelihood_per_row")
    worth = f"log-likelihood per row {per_row:.6g}" if inertia is None else f"inertia {inertia:.6g}"
    return f"{ended} after {plural(figures['n_iter'], 'iteration')}{took}; {worth}"


def _reads(estimator: Any) -> list[dict[str, Any]]:
    """Return one history entry for each read of all data."""
    reads = {entry["iteration"]: entry for entry in getattr(estimator, "history_", []) if entry["phase"] != "sample"}
    return list(reads.values())


def size(estimator: Any) -> int:
    """Return the number of components, or clusters, of a fitted model."""
    return len(locations(estimator))


def locations(estimator: Any) -> NDArray[np.float64]:
    """Return where the components of a fitted model are, shape (n_components, n_features)."""
    return np.asarray(getattr(estimator, f"{entry_of(estimator).location}_"))


def model_figures(estimator: Any) -> dict[str, Any]:
    """Return what is known about a fitted model."""
    entry = entry_of(estimator)
    figures: dict[str, Any] = {
        "estimator": type(estimator).__name__,
        entry.size: size(estimator),
        "n_features": estimator.n_features_in_,
        "converged": bool(estimator.converged_),
        "n_iter": int(estimator.n_iter_),
    }
    figures |= {
        name[:-1]: getattr(estimator, name)
        for name in ("n_retries_", "bad_chunks_", "component_status_")
        if hasattr(estimator, name)
    }
    if entry.is_mixture:
        figures["log_likelihood_per_row"] = float(estimator.lower_bound_)
    else:
        figures["inertia"] = float(estimator.inertia_)
    figures |= {option.parameter: getattr(estimator, option.parameter) for option in entry.options if option.said_as}
    if hasattr(estimator, "feature_names_in_"):
        figures["feature_names"] = [str(name) for name in estimator.feature_names_in_]
    if hasattr(estimator, "feature_dim_"):
        figures["feature_dim"] = estimator.feature_dim_
    if hasattr(estimator, "feature_coordinates_"):
        coordinates = estimator.feature_coordinates_
        figures["feature_coordinates"] = coordinates.astype(str) if coordinates.dtype.kind in "mM" else coordinates
    if entry.is_mixture:
        figures["weights"] = estimator.weights_
    return {**figures, entry.location: locations(estimator)}


def headline(estimator: Any) -> str:
    """Say in a line what a fitted model is."""
    entry = entry_of(estimator)
    parts = "components" if entry.is_mixture else "clusters"
    what = f"{type(estimator).__name__} of {size(estimator)} {parts}, {estimator.n_features_in_} features"
    said = [option.said_as.format(getattr(estimator, option.parameter)) for option in entry.options if option.said_as]
    return ", ".join([what, *said])


def print_components(to: Console, estimator: Any) -> None:
    """Print a table with the weight (k-means has none) and the location of each component."""
    entry, centres, deviations = entry_of(estimator), locations(estimator), estimator._deviations()  # noqa: SLF001  (one of dem's own)
    component = "component" if entry.is_mixture else "cluster"
    names = _feature_words(estimator)
    caption = f"{entry.location_words} of each feature"
    if len(names) > _MOST_FEATURES:
        caption += f"; {len(names) - _MOST_FEATURES} more features are not shown"
    if len(centres) > _MOST_COMPONENTS:
        caption += f"; {len(centres) - _MOST_COMPONENTS} more {component}s are not shown"
    shown = range(min(len(centres), _MOST_COMPONENTS))
    columns = [Column(component, [str(k) for k in shown], is_key=True)]
    if entry.is_mixture:
        columns.append(Column("weight", [f"{estimator.weights_[k]:.4f}" for k in shown]))
    status = getattr(estimator, "component_status_", None) or [OK] * len(centres)
    if any(word != OK for word in status):
        columns.append(Column("status", [str(status[k]) for k in shown]))
    for j, feature in enumerate(names[:_MOST_FEATURES]):
        spread = [f" ± {deviations[k, j]:.2g}" if deviations is not None else "" for k in shown]
        columns.append(Column(feature, [f"{centres[k, j]:.4g}{spread[k]}" for k in shown]))
    print_columns(to, columns, caption=caption)


def _feature_words(estimator: Any) -> list[str]:
    """Return what a table calls each feature: its name, or the coordinate of its dimension such as ``'depth 10'``."""
    if hasattr(estimator, "feature_names_in_"):
        return [str(name) for name in estimator.feature_names_in_]
    if hasattr(estimator, "feature_coordinates_"):
        return [coordinate_text(estimator.feature_dim_, value) for value in estimator.feature_coordinates_]
    return [f"feature {j}" for j in range(estimator.n_features_in_)]


def figures_table(figures: dict[str, Any]) -> None:
    """Print names and values below one another."""
    pairs = ((name.removesuffix("_bytes").replace("_", " "), _readable(name, figures[name])) for name in figures)
    print_pairs(console(), pairs)


def _readable(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name == "bytes" or name.endswith("_bytes"):
        return human_bytes(value)
    if name in ("shape", "chunks", "shards"):
        return " x ".join(f"{length:,}" for length in value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
