"""Keeps what nobody awaits off the terminal; Dask loads it in the processes that ``--workers`` starts too."""

from __future__ import annotations

import logging
import os
import sys


def wants_traceback() -> bool:
    """Return whether the user asks where in the code an error arose."""
    return os.environ.get("DEM_TRACEBACK", "0") not in ("", "0")


def silence() -> None:
    """Show no tracebacks of requests to a store that were given up: the error that counts is told in one line."""
    if not wants_traceback():
        sys.unraisablehook = lambda _: None
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)


def dask_setup(_worker: object) -> None:
    """Do so in a worker; the name is Dask's."""
    silence()
