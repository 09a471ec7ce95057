"""Results as tables for people and JSON for machines."""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dem.cli.progress import human_bytes, human_seconds

# Columns of features in a table, and its rows, at most; JSON and the model have them all.
_MOST_FEATURES = 6
_MOST_COMPONENTS = 40


# Headings of the figures of a selection that are shown.
_SELECTION = {
    "n_components": "K",
    "covariance_type": "covariance",
    "log_likelihood": "per row",
    "n_parameters": "parameters",
    "bic": "BIC",
    "aic": "AIC",
    "icl": "ICL",
    "held_out": "held out",
    "status": "status",
}


def console() -> Console:
    """Return a console on stdout, wide enough for the tables where stdout is no terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=max(100, shutil.get_terminal_size().columns))


def print_json(figures: dict[str, Any]) -> None:
    """Print figures as JSON; numbers that are not finite become null."""
    click.echo(json.dumps(_plain(figures), allow_nan=False, indent=2))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def print_fit(estimator: Any, out: str | None, *, as_json: bool) -> None:
    """Print what a fit found."""
    if as_json:
        print_json({"model": out, **model_figures(estimator)})
        return
    to = console()
    to.print(components_table(estimator))
    to.print(_fit_line(estimator), highlight=False)
    if out is not None:
        to.print(f"saved in {out}", highlight=False, soft_wrap=True)


def print_selection(selection: Any, out: str | None, *, as_json: bool) -> None:
    """Print the models of a grid and the one that was chosen."""
    best = selection.table[selection.best_index]
    if as_json:
        figures = {"model": out, "criterion": selection.criterion, "reads": selection.reads, "best": best}
        print_json({**figures, "models": selection.table})
        return
    columns = [name for name in _SELECTION if best.get(name) is not None]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in columns:
        left = name in ("covariance_type", "status")
        table.add_column(_SELECTION[name], justify="left" if left else "right", no_wrap=True)
    for row in selection.table:
        cells = [_cell(name, row[name]) for name in columns]
        table.add_row(*map(Text, cells), style="bold" if row is best else None)
    to = console()
    to.print(table)
    for reason in dict.fromkeys(row["status"] for row in selection.table if ":" in row["status"]):
        to.print(Text(reason), soft_wrap=True)
    shape = f", covariance {best['covariance_type']}" if "covariance_type" in best else ""
    chosen = f"{best['n_components']} components{shape}"
    to.print(f"chosen by {selection.criterion}: {chosen}; {selection.reads} reads of all data", highlight=False)
    if out is not None:
        to.print(f"saved in {out}", highlight=False, soft_wrap=True)


def _cell(name: str, value: Any) -> str:
    if name in ("bic", "aic", "icl"):  # their differences count, not their sizes
        return f"{value:.1f}"
    return f"{value:.6g}" if isinstance(value, float) else str(value).partition(":")[0]


def _fit_line(estimator: Any) -> str:
    ended = "converged" if estimator.converged_ else "not converged"
    seconds = sum(entry["seconds"] for entry in _reads(estimator))
    took = f", {human_seconds(seconds)} reading and computing" if seconds else ""
    return f"{ended} after {estimator.n_iter_} iterations{took}; log-likelihood per row {estimator.lower_bound_:.6g}"


def _reads(estimator: Any) -> list[dict[str, Any]]:
    """Return one history entry for each read of all data."""
    reads = {entry["iteration"]: entry for entry in getattr(estimator, "history_", []) if entry["phase"] != "sample"}
    return list(reads.values())


def model_figures(estimator: Any) -> dict[str, Any]:
    """Return what is known about a fitted model."""
    figures: dict[str, Any] = {
        "estimator": type(estimator).__name__,
        "n_components": estimator.n_components,
        "n_features": estimator.n_features_in_,
        "converged": bool(estimator.converged_),
        "n_iter": int(estimator.n_iter_),
        "log_likelihood_per_row": float(estimator.lower_bound_),
    }
    if hasattr(estimator, "covariance_type"):
        figures["covariance_type"] = estimator.covariance_type
    if hasattr(estimator, "n_trials"):
        figures["n_trials"] = estimator.n_trials
    if hasattr(estimator, "feature_names_in_"):
        figures["feature_names"] = [str(name) for name in estimator.feature_names_in_]
    figures["weights"] = estimator.weights_
    centres = "means" if hasattr(estimator, "means_") else "probabilities"
    figures[centres] = getattr(estimator, f"{centres}_")
    return figures


def components_table(estimator: Any) -> Table:
    """Return a table with the weight and the centre of each component."""
    gaussian = hasattr(estimator, "means_")
    centres = estimator.means_ if gaussian else estimator.probabilities_
    deviations = _deviations(estimator) if gaussian else None
    kind = "mean ± standard deviation" if gaussian else "probability"
    names = [str(name) for name in getattr(estimator, "feature_names_in_", [])]
    names = names or [f"feature {j}" for j in range(centres.shape[1])]
    caption = f"{kind} of each feature"
    if len(names) > _MOST_FEATURES:
        caption += f"; {len(names) - _MOST_FEATURES} more features are not shown"
    if len(centres) > _MOST_COMPONENTS:
        caption += f"; {len(centres) - _MOST_COMPONENTS} more components are not shown"
    table = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", pad_edge=False)
    table.add_column("component", justify="right")
    table.add_column("weight", justify="right")
    for name in names[:_MOST_FEATURES]:
        table.add_column(name, justify="right", no_wrap=True)
    for k in range(min(len(centres), _MOST_COMPONENTS)):
        cells = [
            f"{centres[k, j]:.4g}" + (f" ± {deviations[k, j]:.2g}" if deviations is not None else "")
            for j in range(min(len(names), _MOST_FEATURES))
        ]
        table.add_row(str(k), f"{estimator.weights_[k]:.4f}", *cells)
    return table


def _deviations(estimator: Any) -> NDArray[np.float64]:
    """Return the standard deviation of each component in each feature, whatever the covariance type."""
    shape = estimator.means_.shape
    covariances = np.asarray(estimator.covariances_)
    variances = {
        "full": lambda: np.diagonal(covariances, axis1=1, axis2=2),
        "tied": lambda: np.diagonal(covariances)[np.newaxis],
        "diag": lambda: covariances,
        "spherical": lambda: covariances[:, np.newaxis],
    }[estimator.covariance_type]()
    return np.broadcast_to(np.sqrt(variances), shape)


def figures_table(figures: dict[str, Any]) -> None:
    """Print names and values below one another."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in figures.items():
        table.add_row(name.removesuffix("_bytes").replace("_", " "), Text(_readable(name, value)))
    to = console()
    to.print(table)


def _readable(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name == "bytes" or name.endswith("_bytes"):
        return human_bytes(value)
    if name in ("shape", "chunks", "shards"):
        return " x ".join(f"{length:,}" for length in value)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
