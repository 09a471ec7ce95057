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
from dem.estimators.registry import entry_of, figure_of
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


def adapted_figures(found: Any) -> dict[str, Any]:
    """Return what is known of mixtures that were adapted to several groups."""
    per_row = found.log_likelihoods / found.n_rows
    figures = {"adapted": [*found.parameters], "groups": found.groups, "n_rows": found.n_rows}
    return {**figures, "log_likelihood_per_row": per_row}


def print_adapted(found: Any, out: str | None, *, as_json: bool) -> None:
    """Print a mixture that was adapted, or of mixtures of several groups how many rows these have, and what they say.

    The log-likelihoods are of the rows under the mixture as it was before.
    """
    if not hasattr(found, "groups"):
        if as_json:
            print_json({"model": out, "n_rows": found.n_samples_seen_, **model_figures(found)})
            return
        print_components(to := console(), found)
        figures = f"adapted to {plural(found.n_samples_seen_, 'row')}; log-likelihood per row {found.lower_bound_:.6g}"
        to.print(f"{figures} before", highlight=False)
    elif as_json:
        print_json({"model": out, **adapted_figures(found)})
        return
    else:
        groups = list(zip(found.groups.tolist(), found.n_rows, found.log_likelihoods, strict=True))
        shown = groups[:_MOST_COMPONENTS]
        columns = [
            Column("group", [str(group) for group, *_ in shown], is_key=True),
            Column("rows", [f"{n_rows:,.6g}" for _, n_rows, _ in shown]),
            Column("log-likelihood per row before", [f"{own / n_rows:.6g}" for _, n_rows, own in shown]),
        ]
        left = len(groups) - len(shown)
        print_columns(to := console(), columns, caption=f"{left} more groups are not shown" if left > 0 else "")
        to.print(f"{', '.join(found.parameters)} adapted to {plural(len(groups), 'group')}", highlight=False)
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
    names = ("inertia", "log_likelihood_per_row", "log_posterior_per_row", "evidence_lower_bound_per_row")
    name = next(name for name in names if name in figures)
    worth = f"{name.replace('_', ' ').replace('log ', 'log-')} {figures[name]:.6g}"
    return f"{ended} after {plural(figures['n_iter'], 'iteration')}{took}; {worth}"


def _reads(estimator: Any) -> list[dict[str, Any]]:
    """Return one history entry for each read of all data."""
    reads = {entry["iteration"]: entry for entry in getattr(estimator, "history_", []) if entry["phase"] != "sample"}
    return list(reads.values())


def size(estimator: Any) -> int:
    """Return the number of components, or clusters, of a fitted model."""
    return len(locations(estimator))


def locations(estimator: Any) -> NDArray[np.float64]:
    """Return where the components of a fitted model are, shape (n_components, n_features) or (…, n_categories)."""
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
        figures[figure_of(estimator)] = float(estimator.lower_bound_)
    else:
        figures["inertia"] = float(estimator.inertia_)
    figures |= {option.parameter: _said(estimator, option.parameter) for option in entry.options if option.said_as}
    if hasattr(estimator, "feature_names_in_"):
        figures["feature_names"] = [str(name) for name in estimator.feature_names_in_]
    if hasattr(estimator, "feature_dim_"):
        figures["feature_dim"] = estimator.feature_dim_
    if hasattr(estimator, "feature_coordinates_"):
        coordinates = estimator.feature_coordinates_
        figures["feature_coordinates"] = coordinates.astype(str) if coordinates.dtype.kind in "mM" else coordinates
    if entry.is_mixture:
        figures["weights"] = estimator.weights_
    figures |= {name: getattr(estimator, f"{name}_") for name in estimator._reported}  # noqa: SLF001  (one of dem's own)
    return {**figures, entry.location: locations(estimator)}


def headline(estimator: Any) -> str:
    """Say in a line what a fitted model is."""
    entry = entry_of(estimator)
    parts = "components" if entry.is_mixture else "clusters"
    what = f"{type(estimator).__name__} of {size(estimator)} {parts}, {estimator.n_features_in_} features"
    given = ((option, getattr(estimator, option.parameter)) for option in entry.options if option.said_as)
    said = (
        option.said_as.format(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)
        for option, value in given
        if value is not None
    )
    return ", ".join([what, *said])


def _said(estimator: Any, parameter: str) -> Any:
    """Return an option as it is told."""
    return estimator._said(parameter)  # noqa: SLF001 - one of dem's own


def print_components(to: Console, estimator: Any) -> None:
    """Print a table with the weight (k-means has none) and the location of each component."""
    entry, deviations = entry_of(estimator), estimator._deviations()  # noqa: SLF001  (one of dem's own)
    headings, centres = estimator._table()  # noqa: SLF001
    component = "component" if entry.is_mixture else "cluster"
    names = _feature_words(estimator) if headings is None else headings
    caption = f"{entry.location_words} of each {'feature' if headings is None else 'column'}"
    if len(names) > _MOST_FEATURES:
        more = "features" if headings is None else "columns"
        caption += f"; {len(names) - _MOST_FEATURES} more {more} are not shown"
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
        columns.append(Column(feature, [f"{_number(centres[k, j])}{spread[k]}" for k in shown]))
    print_columns(to, columns, caption=caption)


def _number(value: Any) -> str:
    """Return a number for a table, or those of the categories of a feature; a word as it is."""
    if isinstance(value, str):
        return value
    return f"{value:.4g}" if np.ndim(value) == 0 else " ".join(f"{one:.2g}" for one in value)


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
