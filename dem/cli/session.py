"""What surrounds a command: signals, warnings, the engine."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

from dem.cli.abandoned import wants_traceback
from dem.cli.options import in_the_shell, refuse
from dem.errors import DataWarning
from dem.units import timed

if TYPE_CHECKING:
    from dem.engine import Engine

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# The timer that brings a signal back which came at a delicate moment; Windows has none.
_RETRY_SIGNALS = (signal.SIGALRM,) if hasattr(signal, "setitimer") else ()
_received: list[int] = []
# An exception raised amid the work of these is lost or leaves a traceback on the terminal; modules that are being
# imported may take it for a package that is not installed.
_DELICATE = {"_frozen_importlib", "asyncio", "distributed", "importlib", "tornado"}
# Seconds until an exception that found them at work is tried again.
_RETRY = 0.01
# Seconds that threads have to finish their chunk after the command was stopped.
_PATIENCE = 5.0

# Packages whose log lines tell users nothing.
_TALKATIVE = ("distributed", "tornado")
# Of the processes that --workers starts, beside `dem.engine.client.WORKER_SETTINGS`: what they log tells users nothing.
_WORKERS = {
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    "distributed.worker.preload": ["dem.cli.abandoned"],
}


class Stopped(Exception):  # noqa: N818
    """The user stopped the command; the text says what became of the work."""


def one_line(message: str) -> str:
    """Return `message` with all white space, line ends too, as single blanks."""
    return " ".join(message.split())


def say(line: str) -> None:
    """Write a line to stderr.

    Not with `click.echo`, which goes around the stream by which `rich` keeps a live line below what is written.
    """
    sys.stderr.write(f"dem: {line}\n")
    sys.stderr.flush()


def log(line: str) -> None:
    """Write a line of progress to stderr, with the time."""
    say(timed(line))


def _stop(number: int, frame: FrameType | None) -> None:
    if number in _STOP_SIGNALS:
        _received.append(number)
    if len(_received) > 1 or not _RETRY_SIGNALS or not _is_delicate(frame):  # who asks twice does not wait
        raise KeyboardInterrupt
    signal.setitimer(signal.ITIMER_REAL, _RETRY)


def _is_delicate(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in _DELICATE:
            return True
        frame = frame.f_back
    return False


def _bring_back(lost: sys.UnraisableHookArgs) -> None:
    """Try a signal again that came amid a destructor or a callback of C, which lose all exceptions."""
    if issubclass(lost.exc_type, KeyboardInterrupt) and _RETRY_SIGNALS:
        signal.setitimer(signal.ITIMER_REAL, _RETRY)
    elif wants_traceback():
        sys.__unraisablehook__(lost)


@contextmanager
def interrupts() -> Iterator[None]:
    """Let SIGTERM end the command in the same clean way as Ctrl-C."""
    _received.clear()
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [(number, signal.signal(number, _stop)) for number in (*_STOP_SIGNALS, *_RETRY_SIGNALS)]
    hook, sys.unraisablehook = sys.unraisablehook, _bring_back
    try:
        yield
    finally:
        sys.unraisablehook = hook
        with suppress(KeyboardInterrupt):
            _wait_for_threads()
        if _RETRY_SIGNALS:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before:
            signal.signal(number, handler)


def _wait_for_threads() -> None:
    """Let the threads of a stopped sweep finish their chunk: the exit of Python would fail their last writes."""
    deadline = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if thread.name.startswith("dem") and thread.is_alive():  # one that the signal kept from starting is not
            thread.join(max(deadline - time.monotonic(), 0.0))


def left_reading() -> bool:
    """Return whether a thread still reads, as from a store that does not answer."""
    return any(thread.name.startswith("dem-read") for thread in threading.enumerate())


def exit_code_of_signal() -> int:
    """Return 128 + the signal that stopped the command, as shells do."""
    return 128 + (_received[0] if _received else signal.SIGINT)


def stopped_by() -> str:
    """Return what the user calls the signal that stopped the command."""
    return "SIGTERM" if _received and _received[0] == signal.SIGTERM else "Ctrl-C"


@contextmanager
def _blocked(*signals: signal.Signals) -> Iterator[None]:
    """Put signals off, where the system can: threads and processes that are started meanwhile never see them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def undisturbed() -> AbstractContextManager[None]:
    """Put off both signals, for work that must not be cut short."""
    return _blocked(*_STOP_SIGNALS, *_RETRY_SIGNALS)


def _children_deaf_to_ctrl_c() -> AbstractContextManager[None]:
    """Start threads and processes that do not see Ctrl-C.

    A terminal sends it to every process of the command; only this one may act on it, or the workers die with
    tracebacks. Signal masks are inherited, also by the workers that are restarted later.
    """
    from multiprocessing import resource_tracker  # noqa: PLC0415

    if hasattr(signal, "pthread_sigmask"):
        resource_tracker.ensure_running()  # now, because starting it unblocks the signal
    return _blocked(signal.SIGINT)


@contextmanager
def open_engine(
    scheduler: str | None = None,
    workers: int | None = None,
    memory_limit: str | None = None,
    worker_timeout: str | None = None,
    security: str | None = None,
) -> Iterator[Engine]:
    """Open the engine that the options ask for; see `dem.engine.connect`."""
    if memory_limit is not None and workers is None:
        refuse("--memory-limit is for the processes that --workers starts; give --workers too")
    if scheduler is not None and workers is not None:
        refuse("give either --scheduler or --workers, not both")
    if worker_timeout is not None and scheduler is None and workers is None:
        refuse("--worker-timeout is for a cluster; give --scheduler or --workers too")
    if security is not None and scheduler is None and workers is None:
        refuse("--security is for a cluster; give --scheduler or --workers too")
    from dem.engine import connect  # noqa: PLC0415

    with ExitStack() as running, ExitStack() as starting:
        if scheduler is not None or workers is not None:
            running.enter_context(_dask_silenced(memory_limit))
        if workers is not None:
            import dask  # noqa: PLC0415

            starting.enter_context(_children_deaf_to_ctrl_c())
            starting.enter_context(dask.config.set(_WORKERS))
        engine = running.enter_context(connect(scheduler, workers, memory_limit, worker_timeout, security))
        starting.close()
        yield engine


class _Restarts(logging.Handler):
    """Turns what Dask logs of a worker that it ended for its memory into a warning that says what to do."""

    def __init__(self, memory_limit: str | None) -> None:
        super().__init__(logging.WARNING)
        self.limit = f" ({memory_limit})" if memory_limit else ""
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Warn; each restart has a line of its own."""
        if "memory budget" not in record.getMessage():
            return
        self.count += 1
        message = (
            f"a worker needed more than its memory limit{self.limit} and was restarted (restart {self.count}); if it "
            "goes on, stop with Ctrl-C and give more with --memory-limit, or store the data in smaller chunks"
        )
        warnings.warn(message, DataWarning, stacklevel=1)


@contextmanager
def _dask_silenced(memory_limit: str | None) -> Iterator[None]:
    """Keep Dask's log lines off the terminal: what matters to the user comes back as an error or a warning."""
    # Imported here also because Dask must know its defaults before `_WORKERS` changes them.
    import dem.engine.cluster  # noqa: F401, PLC0415

    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in _TALKATIVE]
    before = [(logger, logger.level) for logger in map(logging.getLogger, names)]
    for logger, _ in before:
        logger.setLevel(logging.CRITICAL)
    memory = logging.getLogger("distributed.nanny.memory")
    restarts = _Restarts(memory_limit)
    memory.addHandler(restarts)
    memory.setLevel(logging.WARNING)
    propagates, memory.propagate = memory.propagate, False
    try:
        yield
    finally:
        memory.removeHandler(restarts)
        memory.propagate = propagates
        for logger, level in before:
            logger.setLevel(level)


@contextmanager
def plain_warnings(quiet: bool = False) -> Iterator[None]:
    """Show each warning once, as one line on stderr, or none at all."""
    seen: set[str] = set()

    def show(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        line = in_the_shell(one_line(str(message))) or category.__name__
        if line not in seen:
            seen.add(line)
            say(f"warning: {line}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not quiet:
            # Deprecations and the like are for developers; these two are about the data and the fit.
            warnings.simplefilter("always", UserWarning)
            warnings.simplefilter("always", RuntimeWarning)
            warnings.filterwarnings("ignore", module=r"zarr\.|distributed\.|dask\.")
        warnings.showwarning = show
        yield


def is_terminal() -> bool:
    """Return whether a person watches stderr."""
    return sys.stderr.isatty()
