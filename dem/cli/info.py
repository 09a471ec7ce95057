"""`dem info`: describe a model, a zarr array or group, parquet, or this machine."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import click

from dem.cli.options import TEXT, json_option, local_path, refuse
from dem.cli.session import plain_warnings
from dem.errors import DataError, DemError

# Seconds after which the listing of an array's chunks ends.
_LISTING_SECONDS = 10.0
# Of the columns of a sparse matrix, in words for people.
_NAMES_SHOWN = 6
_PACKAGES = ("dask-em", "numpy", "scipy", "scikit-learn", "dask", "distributed", "zarr", "xarray", "matplotlib")


@click.command(
    "info",
    short_help="Describe a model, data or this machine.",
    epilog="""\b
Examples:
  dem info model.zarr
  dem info cube.zarr --variable temperature --json
  dem info catalogue.parquet
  dem info --system""",
)
@click.argument("path", type=TEXT, metavar="[MODEL|DATA]", required=False)
@click.option("--variable", type=TEXT, metavar="NAME", help="The array to take if DATA is a group.")
@click.option("--system", is_flag=True, help="Versions, BLAS, cores and memory of this machine.")
@json_option
def info(path: str | None, variable: str | None, system: bool, as_json: bool) -> None:
    """Print a model's components (clusters), the shape, chunks, codec and dtype of zarr, or the columns of parquet."""
    if (path is None) != system:
        refuse("give the path of a model or of data, or --system")
    with plain_warnings():
        if path is None:
            _print(_system(), as_json)
            return
        if _is_parquet(path):
            if variable is not None:
                refuse(f"--variable is for zarr groups, but {path} is parquet")
            _print_parquet(path, as_json)
        elif variable is None and {"format", "family"} <= set(_open(path).attrs):  # a model, damaged or not
            _print_model(path, as_json)
        else:
            _print_data(path, variable, as_json)


def _print(figures: dict[str, Any], as_json: bool) -> None:
    from dem.cli.report import figures_table, print_json  # noqa: PLC0415

    if as_json:
        print_json(figures)
    else:
        figures_table(figures)


def _open(path: str) -> Any:
    import zarr  # noqa: PLC0415

    from dem.data.atomic import is_url  # noqa: PLC0415
    from dem.data.bounded import check_metadata_files  # noqa: PLC0415

    if not is_url(path):
        if not local_path(path).exists():
            message = f"there is no {path}"
            raise DataError(message)
        check_metadata_files(local_path(path))
    try:
        return zarr.open(path, mode="r")
    except DemError:
        raise
    except (FileNotFoundError, zarr.errors.NodeNotFoundError) as error:
        message = f"{path} is neither a model nor a zarr array or group, nor parquet"
        raise DataError(message) from error
    except Exception as error:  # whatever the store's service makes it raise
        message = f"{path} cannot be opened ({' '.join(str(error).split()) or 'no reason is given'})"
        raise DataError(message) from error


def _is_parquet(path: str) -> bool:
    from dem.data.atomic import is_url  # noqa: PLC0415
    from dem.data.checks import is_parquet  # noqa: PLC0415

    return is_parquet(path) and (is_url(path) or local_path(path).exists())


def _print_parquet(path: str, as_json: bool) -> None:
    from dem.data.parquet import outline  # noqa: PLC0415

    figures = {"kind": "parquet", "path": path, **outline(path)}
    if not as_json:
        figures = {name: f"{value:,}" if isinstance(value, int) else value for name, value in figures.items()}
        figures["columns"] = [f"{name} {kind}" for name, kind in figures["columns"].items()]
    _print(figures, as_json)


def _print_model(path: str, as_json: bool) -> None:
    import dem  # noqa: PLC0415
    from dem.cli import report  # noqa: PLC0415
    from dem.cli.tables import console  # noqa: PLC0415

    found: Any = dem.load(path)
    is_adapted = isinstance(found, dem.AdaptedMixtures)
    figures = report.adapted_figures(found) if is_adapted else report.model_figures(found)
    if as_json:
        report.print_json({"kind": "adapted" if is_adapted else "model", "path": path, **figures})
        return
    to = console()
    to.print(report.headline(found.background if is_adapted else found), highlight=False)
    if is_adapted:
        report.print_adapted(found, None, as_json=False)
        return
    report.print_components(to, found)
    to.print(report.outcome(figures), highlight=False)


def _print_data(path: str, variable: str | None, as_json: bool) -> None:
    from dem.data.checks import reason  # noqa: PLC0415

    try:
        figures = _figures(path, variable, as_json)
    except (DemError, OSError):
        raise
    except Exception as error:  # whatever zarr makes of metadata that are damaged
        message = f"{path} cannot be described ({reason(error)})"
        raise DataError(message) from error
    for each in figures:
        _print(each, as_json)


def _figures(path: str, variable: str | None, as_json: bool) -> list[dict[str, Any]]:
    """Return what is printed of zarr, one thing after another."""
    import zarr  # noqa: PLC0415

    node = _open(path)
    if isinstance(node, zarr.Group) and variable is not None:
        if variable not in node:
            names = ", ".join(sorted(name for name, _ in node.arrays())) or "none"
            message = f"{path} has no variable {variable!r}; its arrays: {names}"
            raise DataError(message)
        node = node[variable]
    if sparse := _sparse_figures(node, path, as_json):
        return [sparse]
    if not isinstance(node, zarr.Group):
        return [{"kind": "array", "path": path, **_array_figures(node, as_json)}]
    arrays = {name: _array_figures(array, as_json) for name, array in sorted(node.arrays())}
    if as_json or not arrays:
        return [{"kind": "group", "path": path, "arrays": arrays if as_json else "none"}]
    return [{"variable": name, **figures} for name, figures in arrays.items()]


def _sparse_figures(node: Any, path: str, as_json: bool) -> dict[str, Any]:
    """Return what there is to say of a sparse matrix, or of an AnnData whose X is one; nothing of anything else."""
    import zarr  # noqa: PLC0415

    from dem.data.sparse import ANNDATA, CSC, CSR, ENCODING, names_of_columns, stored_shape  # noqa: PLC0415

    is_whole = isinstance(node, zarr.Group) and node.attrs.get(ENCODING) == ANNDATA
    group: Any = node.get("X") if is_whole else node
    if not isinstance(group, zarr.Group) or group.attrs.get(ENCODING) not in (CSR, CSC):
        return {}
    shape = stored_shape(group, f"{path}/X" if is_whole else path, set(group))
    stored: Any = group["data"]
    figures: dict[str, Any] = {
        "kind": "sparse matrix",
        "path": path,
        "encoding": group.attrs[ENCODING],
        "shape": list(shape),
        "stored_values": stored.shape[0] if as_json else f"{stored.shape[0]:,}",
        "stored_share": stored.shape[0] / max(shape[0] * shape[1], 1),
    }
    if names := names_of_columns(node, shape[1]):
        shown = list(names if as_json else names[:_NAMES_SHOWN])
        figures["feature_names"] = shown if len(shown) == len(names) else [*shown, "…"]
    of_values = _array_figures(stored, as_json)
    return {**figures, **{name: value for name, value in of_values.items() if name != "shape"}}


def _array_figures(array: Any, as_json: bool) -> dict[str, Any]:
    codecs = [codec for codec in (*array.filters, array.serializer, *array.compressors) if codec is not None]
    return {
        "shape": list(array.shape),
        "chunks": list(array.chunks),
        "shards": list(array.shards) if array.shards else None,
        "dtype": str(array.dtype),
        "bytes": int(array.nbytes),
        "codecs": [_codec_name(codec) for codec in codecs],
        "zarr_format": int(array.metadata.zarr_format),
        **_presence(array, as_json),
    }


def _presence(array: Any, as_json: bool) -> dict[str, Any]:
    """Return how many chunks (shards) are in the store, of those that there should be."""
    from dem.data.zarr_open import count_stored  # noqa: PLC0415

    what = "shards" if array.shards else "chunks"
    present, expected, complete = count_stored(array, _LISTING_SECONDS)
    if as_json:
        return {f"{what}_present": present, f"{what}_expected": expected, "listing_complete": complete}
    return {f"{what}_present": f"{'' if complete else 'at least '}{present:,} of {expected:,}"}


def _codec_name(codec: Any) -> str:
    """Return for instance ``'zstd'``, for codecs of both formats."""
    name = getattr(codec, "codec_id", None) or type(codec).__name__.removesuffix("Codec")
    return str(name).lower()


def _system() -> dict[str, Any]:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    import threadpoolctl  # noqa: PLC0415

    from dem.engine.local import available_cores  # noqa: PLC0415
    from dem.native import offered  # noqa: PLC0415

    np.ones((2, 2)) @ np.ones((2, 2))  # loads the library before it is asked for
    figures: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            figures[package] = version(package)
        except PackageNotFoundError:
            figures[package] = None
    for library in threadpoolctl.threadpool_info():
        if library["user_api"] == "blas":
            kernel = library.get("architecture") or "unknown kernel"
            figures["blas"] = f"{library['internal_api']} {library['version']}, {kernel}"
    figures["loops"] = f"compiled by {offered()}" if offered() != "NumPy" else "not compiled"
    figures["cores"] = available_cores()
    figures["memory_bytes"] = _memory()
    return figures


def _memory() -> int:
    """Return the bytes of memory of this machine, or of the container it is."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical
