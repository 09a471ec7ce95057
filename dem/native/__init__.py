"""Compiled loops: whether there are any, when they are used, and the one way to compile them.

Whoever begins a fit, or computes results, judges once for all processes whether loops repay being loaded and find room
in memory (`permitted`; `dem.estimators.loops`). numba is imported no earlier than by the first chunk of such a fit that
is large enough: small fits and ``dem --help`` never wait for it. A chunk's arithmetic is chosen by that judgement, its
size and the model, never by where it is computed; `offered` is compared between a process and its workers, `state`
between a fit and its checkpoint. NumPy's arithmetic serves where numba is missing or fails, after one line of warning.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from types import CellType, FunctionType
from typing import Any, TypeVar

from dem.errors import EngineWarning, OptionError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

#: environment variable: ``off`` for NumPy alone; ``auto``, the same as none, for compiled loops where they repay being
#: loaded and there is memory for them; ``always`` for loops everywhere
SETTING = "DEM_NATIVE"
# Multiplications from which on a chunk goes through them.
LEAST_WORK = 2e6
_VALUES = ("off", "auto", "always")

_failure: str | None = None
_loaded: dict[tuple[Hashable, ...], Any] = {}
_loading = Lock()
_permitted: ContextVar[bool] = ContextVar("permitted", default=False)


@contextmanager
def permitted(permits: bool) -> Iterator[None]:
    """Let this thread use compiled loops meanwhile, or not, where ``DEM_NATIVE`` leaves it open."""
    token = _permitted.set(permits)
    try:
        yield
    finally:
        _permitted.reset(token)


def is_permitted() -> bool:
    """Tell whether this thread may use compiled loops, if there are any."""
    return _setting() == "always" or (_setting() == "auto" and _permitted.get())


def offered() -> str:
    """Return the best arithmetic that this process can use: ``NumPy``, or numba's version."""
    setting = _setting()
    if setting == "off" or _failure is not None or not _is_installed():
        return "NumPy"
    try:
        found = f"numba {version('numba')}"
    except PackageNotFoundError:
        found = "numba"
    return f"{found}, {setting}" if setting == "always" else found


def failure() -> str | None:
    """Return why compiled loops cannot be used in this process, once that has been found."""
    return _failure


def is_compiled() -> bool:
    """Tell whether numba has compiled loops of mixtures on this machine before, as far as its usual folders tell."""
    own, pattern = Path(__file__).parent / "__pycache__", "mixtures._e_step-*.nbi"
    folders = [Path(os.environ.get("NUMBA_CACHE_DIR") or own), Path.home() / ".cache" / "numba"]
    return any(next(folder.rglob(pattern), None) is not None for folder in folders)


def state() -> str:
    """Return which arithmetic this thread uses: ``NumPy``, or numba's version."""
    return offered() if is_permitted() else "NumPy"


def pays(multiplications: float) -> bool:
    """Tell whether a chunk of so much work goes through compiled loops, if there are any."""
    return _setting() == "always" or (is_permitted() and multiplications >= LEAST_WORK)


def loaded(make: Callable[..., T], *arguments: Hashable) -> T | None:
    """Return what `make` imports or compiles, kept; None where that fails, which is said once in a process.

    Parameters
    ----------
    make : callable
        A function of a module; it imports a module of loops, or compiles some.
    *arguments
        Its arguments, for instance the types of numbers.
    """
    global _failure  # noqa: PLW0603 - one failure is that of the whole process
    key = (make, *arguments)
    if key in _loaded:
        kept: T = _loaded[key]
        return kept
    with _loading:
        if _failure is None and key not in _loaded:
            try:
                _loaded[key] = make(*arguments)
            except Exception as error:  # noqa: BLE001 - numba, LLVM and the disk raise what they like; it is told
                reason = str(error).strip().partition("\n")[0]
                _failure = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
                message = (
                    f"the compiled loops cannot be used ({_failure}), NumPy computes instead, slower; "
                    f"{SETTING}=off chooses this without a warning"
                )
                warnings.warn(message, EngineWarning, stacklevel=2)
        return _loaded.get(key)


def compiled(signature: Any, *, reassociates: bool = False) -> Callable[[F], F]:
    """Return a decorator that compiles a function at once, or takes it from the cache on the disk.

    The function runs without the interpreter's lock. Of the liberties of floating point it has fused multiply-add
    alone, so that NaN and infinity mean what they do elsewhere; with `reassociates` also sums in any order, which is
    what lets sums over rows be vectorised: the order is fixed when it is compiled.

    numba's cache looks at the file of the function alone, so that the function is given a digest of all files of loops,
    some of which it inlines.

    Parameters
    ----------
    signature : signature of numba, or str
        Rows are read-only arrays of any layout: what is writable or contiguous passes too.
    reassociates : bool

    Raises
    ------
    ImportError
        Where numba is missing, or too old or too new for NumPy.
    """
    numba: Any = importlib.import_module("numba")  # not before it is wanted
    if numba.config.DISABLE_JIT:
        message = "NUMBA_DISABLE_JIT is set"
        raise RuntimeError(message)
    options: dict[str, Any] = {"nogil": True, "fastmath": _liberties(reassociates), "error_model": "numpy"}

    def decorate(function: F) -> F:
        code: Any = function.__code__
        # What a function is closed over is part of the key of numba's cache.
        stamped = FunctionType(
            code.replace(co_freevars=("digest",)),
            function.__globals__,
            closure=(CellType(_digest()),),
        )
        try:
            result: F = numba.njit(signature, cache=True, **options)(stamped)
        except Exception as error:  # noqa: BLE001 - a damaged file of the cache raises what it likes
            result = numba.njit(signature, **options)(stamped)  # or it cannot be compiled at all
            if "cache" not in str(error):  # else there is no folder that may be written to
                folder = numba.njit(cache=True)(stamped).stats.cache_path
                message = (
                    f"numba's cache of compiled loops in {folder} is damaged ({type(error).__name__}); they are "
                    "compiled anew in each process: remove the files *.nbi and *.nbc there"
                )
                warnings.warn(message, EngineWarning, stacklevel=2)
        return result

    return decorate


@cache
def _digest() -> str:
    """Return what tells the files of this package from those of another version."""
    found = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


def inlined(*, reassociates: bool = False) -> Callable[[F], F]:
    """Return a decorator for functions that only compiled ones call, never Python; each call has types of its own."""
    numba: Any = importlib.import_module("numba")  # not before it is wanted

    def decorate(function: F) -> F:
        # What Python would need to call them takes a sixth of the time of compilation, and 30 MB.
        result: F = numba.njit(
            function,
            nogil=True,
            fastmath=_liberties(reassociates),
            error_model="numpy",
            no_cpython_wrapper=True,
            no_cfunc_wrapper=True,
        )
        return result

    return decorate


def _liberties(reassociates: bool) -> set[str]:
    return {"contract", "reassoc"} if reassociates else {"contract"}


def _setting() -> str:
    value = os.environ.get(SETTING, "").strip().lower() or "auto"
    if value not in _VALUES:
        message = f"{SETTING} must be off, auto or always, not {value!r}"
        raise OptionError(message)
    return value


def _is_installed() -> bool:
    is_enabled = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
    return is_enabled and importlib.util.find_spec("numba") is not None
