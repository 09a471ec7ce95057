"""Paths and URLs of data, and the packages that URLs need."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from dem.errors import DataError

_PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
_ZARR_FILES = ("zarr.json", ".zarray", ".zgroup", ".zmetadata")
_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)(?:://|::)")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs"}
_PACKAGES |= {"http": "aiohttp", "https": "aiohttp"}


def split_scheme(path: str) -> tuple[str, str | None]:
    """Return a path without ``file://``, and the scheme of any other URL.

    Raises
    ------
    DataError
        If the scheme is unknown, or its package is not installed.
    """
    match = _SCHEME.match(path)
    if match is None:
        return path, None
    if match[1].lower() == "file":
        return path[len(match[0]) :], None
    _check_package(path, match[1])
    return path, match[1].lower()


def _check_package(path: str, scheme: str) -> None:
    import fsspec  # noqa: PLC0415  (comes with the packages of URLs)

    package = _PACKAGES.get(scheme.lower())
    if package is not None and importlib.util.find_spec(package) is None:
        install = '"dask-em[s3]"' if package == "s3fs" else package
        message = f"{scheme}:// needs the package {package}, which is not installed: pip install {install}"
        raise DataError(message)
    try:
        fsspec.get_filesystem_class(scheme.lower())
    except ValueError as error:
        message = f"unknown URL scheme {scheme}:// in {path}; use a path, or s3://, gs://, abfs:// or https://"
        raise DataError(message) from error
    except ImportError as error:
        message = f"{scheme}:// needs a package that is not installed ({error})"
        raise DataError(message) from error


def is_parquet(path: str) -> bool:
    """Tell from names, and the first bytes of a file, whether a path or URL is a parquet file or a folder of them."""
    here = Path(path.removeprefix("file://"))
    if any((here / name).exists() for name in _ZARR_FILES):
        return False
    if path.rstrip("/").lower().endswith(_PARQUET_SUFFIXES):
        return True
    if here.is_file():
        with here.open("rb") as file:
            return file.read(4) == b"PAR1"
    return here.is_dir() and any(found for suffix in _PARQUET_SUFFIXES for found in here.rglob(f"*{suffix}"))
