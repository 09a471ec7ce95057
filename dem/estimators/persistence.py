"""Models on disk: a zarr group of arrays and JSON attributes, readable without dem, never a pickle."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import replace
from typing import Any

import numpy as np

from dem import __version__, store
from dem.data.base import COLUMNS
from dem.data.checks import reason
from dem.errors import StoreError
from dem.estimators.adapted import AdaptedMixtures, restored
from dem.estimators.inputs import CONJUGATE, SCALES
from dem.estimators.registry import ESTIMATORS, Entry, name_of
from dem.tree import flatten, unflatten

#: number of the layout of model files; raised whenever older versions of dem could misread a newer file
FORMAT = 2
# Format 1 has no raw parameters.
_READ = (1, FORMAT)
# What files of earlier versions do not have, or models of some families.
_LATER_ATTRIBUTES = (
    "n_samples_seen_",
    "_rows_of_start",
    "n_patterns_",
    "n_retries_",
    "bad_chunks_",
    "_job",
    "categories_",
    "_part_outcomes",
    *CONJUGATE,
)
_STATUS = "component_status_"
#: attributes of an estimator that holds the first rows of a stream, and what is known of each
HELD_ARRAYS = ("_held_rows", *(f"_held_{field}" for field in COLUMNS))
# Options that make no sense in another process.
_NOT_SAVED = ("callbacks",)


def save(estimator: Any, path: str, *, overwrite: bool, adapted: AdaptedMixtures | None = None) -> None:
    """Write a fitted estimator, and with it what was adapted of it; see `Estimator.save`."""
    arrays = {name: np.asarray(getattr(estimator, f"{name}_")) for name in estimator._parameter_names}
    arrays |= {name[1:]: vars(estimator)[name] for name in HELD_ARRAYS if name in vars(estimator)}
    arrays |= {name[:-1]: vars(estimator)[name] for name in SCALES if name in vars(estimator)}
    arrays |= {f"raw/{name}": array for name, array in getattr(estimator, "_raw", {}).items()}
    options: dict[str, Any] = {}
    for name, value in estimator._options_to_store().items():
        if name in _NOT_SAVED or callable(value):
            continue
        if name == "random_state" and not isinstance(value, int | np.integer | None):
            value = None
        if isinstance(value, list | tuple) and any(isinstance(one, str) for one in value):
            options[name] = list(value)
        elif isinstance(value, dict):
            held = {
                key: np.asarray(one)
                for key, one in value.items()
                if np.ndim(one) and np.asarray(one).dtype.kind in "biuf"
            }
            arrays |= {f"options/{name}.{key}": one for key, one in held.items()}
            plain = {key: one for key, one in value.items() if key not in held}
            options[name] = {key: one.item() if isinstance(one, np.generic) else one for key, one in plain.items()}
        elif isinstance(value, np.ndarray | list | tuple):
            arrays[f"options/{name}"] = np.asarray(value)
        else:
            options[name] = value.item() if isinstance(value, np.generic) else value
    names = getattr(estimator, "feature_names_in_", None)
    attributes = {
        "format": FORMAT,
        "family": name_of(estimator),
        "options": options,
        "fitted": {
            name: getattr(estimator, name)
            for name in ("n_features_in_", *estimator._outcome, *_LATER_ATTRIBUTES, _STATUS)
            if hasattr(estimator, name)
        },
        "feature_names": None if names is None else list(names),
        "feature_axis": _axis(estimator),
        "versions": {
            "dem": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in ("numpy", "scipy", "zarr", "dask")},
        },
    }
    if adapted is not None:
        attributes["adapted"] = adapted.told
        arrays |= {f"adapted/{name}": array for name, array in adapted.arrays.items()}
    store.write(path, arrays, attributes, overwrite=overwrite)


def load(path: str) -> Any:
    """Read a fitted model.

    Parameters
    ----------
    path : str
        Where `save` wrote it.

    Returns
    -------
    estimator
        Whatever was saved, ready to predict; `AdaptedMixtures` where these were.

    Raises
    ------
    StoreError
        If there is nothing at `path`, or it is damaged, of another format, or of an unknown family.

    Examples
    --------
    >>> import tempfile, numpy as np, dem
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> path = tempfile.mkdtemp() + "/model.zarr"
    >>> dem.GaussianMixture(random_state=0).fit(X).save(path)
    >>> dem.load(path).means_.shape
    (1, 2)
    """
    arrays, attributes = store.read(path)
    found = attributes.get("format")
    if found is None or "family" not in attributes:
        message = f"{path} is a zarr group, but not a model that dem saved"
        raise StoreError(message)
    if found not in _READ:
        known = " and ".join(map(str, _READ))
        versions = attributes.get("versions")
        writer = str(versions.get("dem", "?") if isinstance(versions, dict) else "?")[:20]
        message = (
            f"{path} has model format {str(found)[:20]}, and this version of dem ({__version__}) reads format {known}; "
            f"it was written by dem {writer}"
        )
        raise StoreError(message)
    family = str(attributes["family"])
    if family not in ESTIMATORS:
        known = ", ".join(sorted(ESTIMATORS))
        message = f"{path} is a model of the family {family[:40]!r}; this version of dem knows {known}"
        raise StoreError(message)
    try:
        estimator = _restore(ESTIMATORS[family], arrays, attributes)
        return restored(estimator, _group(arrays, "adapted"), attributes.get("adapted"))
    except Exception as error:  # what is wrong in a file that anybody may have written is anywhere
        message = f"the model at {path} is damaged ({reason(error)[:400]}); save it again"
        raise StoreError(message) from error


def _restore(entry: Entry, arrays: dict[str, np.ndarray], attributes: dict[str, Any]) -> Any:
    kind = entry.load()
    options = dict(attributes["options"])
    for name, array in _group(arrays, "options").items():
        option, _, key = name.partition(".")
        options[option] = {**options[option], key: array.tolist()} if key else array
    estimator = kind(**kind._options_from_store(options))
    fitted = attributes["fitted"]
    found: dict[str, Any] = {f"{name}_": arrays[name] for name in estimator._parameter_names}
    found |= {name: fitted[name] for name in ("n_features_in_", *estimator._outcome)}
    found |= {name: fitted[name] for name in _LATER_ATTRIBUTES if name in fitted}
    if _STATUS in fitted:
        found[_STATUS] = [str(word) for word in fitted[_STATUS]]
    found |= _from_axis(dict(attributes.get("feature_axis") or {}))
    if attributes["feature_names"] is not None:
        found["feature_names_in_"] = np.array(attributes["feature_names"], dtype=object)
    found |= {name: arrays[name[1:]] for name in HELD_ARRAYS if name[1:] in arrays}
    found |= {name: arrays[name[:-1]] for name in SCALES if name[:-1] in arrays}
    if raw := _group(arrays, "raw"):
        found["_raw"] = raw
    vars(estimator).update(found)
    size, n_features = getattr(estimator, entry.size), fitted["n_features_in_"]
    for name in estimator._parameter_names:
        wanted = estimator._shape(name, size, n_features)
        if arrays[name].shape != wanted or arrays[name].dtype.kind != "f":
            what = f"{arrays[name].dtype} of shape {arrays[name].shape}"
            message = f"with {entry.size} {size} and {n_features} features, {name} are of shape {wanted}, not {what}"
            raise ValueError(message)
    if len(found.get(_STATUS, ())) not in (0, size):
        message = f"{len(found[_STATUS])} words tell of {size} components"
        raise ValueError(message)
    for name in ("feature_names_in_", "feature_coordinates_"):
        if name in found and found[name].shape != (n_features,):
            message = f"the {n_features} features have {len(found[name])} entries in {name}"
            raise ValueError(message)
    estimator._check_options()
    estimator._complete()
    where_it_ended(estimator)  # what has been found goes together
    return estimator


def _group(arrays: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """Return the arrays of a group of the file, by their names there."""
    return {key.removeprefix(f"{name}/"): array for key, array in arrays.items() if key.startswith(f"{name}/")}


def where_it_ended(estimator: Any) -> tuple[Any, Any]:
    """Return family and parameters to the bits with which a fit ended, if the fitted attributes are still its."""
    family, parameters = estimator._model()
    raw = getattr(estimator, "_raw", {})
    if not raw:
        return family, parameters
    component = family.component
    adapted = replace(family, component=replace(component, frame=unflatten((component.frame,), raw)[0]))
    fitted = {name: getattr(estimator, f"{name}_") for name in estimator._parameter_names}
    kept = adapted.from_user(fitted)
    exact = unflatten(kept, {**flatten(kept), **raw})
    still = all(np.array_equal(value, fitted[name]) for name, value in adapted.to_user(exact).items())
    return (adapted, exact) if still else (family, parameters)


def _axis(estimator: Any) -> dict[str, Any]:
    """Return the feature dimension as JSON holds it, times as whole numbers; files of earlier versions have none."""
    axis: dict[str, Any] = {}
    if hasattr(estimator, "feature_dim_"):
        axis["dim"] = estimator.feature_dim_
    if hasattr(estimator, "features_"):
        axis["features"] = list(map(list, estimator.features_.items()))
    if hasattr(estimator, "feature_coordinates_"):
        coordinates = np.asarray(estimator.feature_coordinates_)
        coordinates = coordinates.astype(coordinates.dtype.newbyteorder("="))
        plain = coordinates.view(np.int64) if coordinates.dtype.kind in "mM" else coordinates
        axis |= {"dtype": coordinates.dtype.str[1:], "coordinates": plain.tolist()}
    return axis


def _from_axis(axis: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that `_axis` holds."""
    found: dict[str, Any] = {"feature_dim_": str(axis["dim"])} if "dim" in axis else {}
    if "features" in axis:
        found["features_"] = dict(axis["features"])
    if "coordinates" in axis:
        dtype = np.dtype(axis["dtype"])
        if dtype.kind not in "biufmMUO":
            message = f"coordinates of features cannot be {dtype}"
            raise ValueError(message)
        # Words are as long as they are, not as the file says.
        plain = np.array(axis["coordinates"], {"m": np.int64, "M": np.int64, "U": np.str_}.get(dtype.kind, dtype))
        found["feature_coordinates_"] = plain.view(dtype) if dtype.kind in "mM" else plain
    return found
