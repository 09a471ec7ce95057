"""Reads that fail in passing are tried again: one rule for every store, with pauses that grow and are never the same.

Object stores answer that they are busy, links break, a network disk is away for a second: what asks once more gets its
answer. Each pause is drawn between half of twice the one before and all of it (exponential back-off with equal jitter,
M. Brooker, AWS Architecture Blog 2015), so that readers who failed together do not come back together.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import math
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from dem.data.checks import reason
from dem.errors import OptionError

T = TypeVar("T")

# Seconds before the second attempt, and at most between two.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
# Seconds after which one that waits looks whether it is still wanted.
_SLICE = 0.1
# Of its own, so that nobody's seeded draws change by a failed read.
_jitter = random.Random()

# Answers that mean: not now. What is not found, not allowed or not right stays so.
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_PASSING_ERRNO = {
    getattr(errno, name)
    for name in (
        *("EIO", "EREMOTEIO", "ETIMEDOUT", "EBUSY", "EAGAIN", "EINTR", "ESTALE", "EPIPE", "ETIME"),
        *("ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "ENOTCONN", "ESHUTDOWN"),
        *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
    )
    if hasattr(errno, name)
}
# Failed connections, of packages that have classes of their own for them: botocore, aiohttp, azure, google, http.
_PASSING_CLASSES = {
    *("HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError", "IncompleteRead"),
    *("ServiceRequestError", "ServiceResponseError", "TransportError", "HttpProcessingError", "ResponseParserError"),
}


@dataclass
class Retries:
    """How often and how long reads are tried, and how many had to be tried again.

    Attributes
    ----------
    attempts : int
        How often each read is tried: ``dask.config.get("dem.read-attempts")``, 8 unless set.
    seconds : float
        After which none is begun any more: ``dask.config.get("dem.read-retry-time")``, one minute unless set.
    n : int
        How many attempts failed and were followed by another.
    why : str
        What the first of them failed by.
    stops : list of threading.Event
        Once one of them is set, no attempt follows another.
    """

    attempts: int
    seconds: float
    n: int = 0
    why: str = ""
    stops: list[threading.Event] = field(default_factory=lambda: [threading.Event()])
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def configured(cls) -> Retries:
        """Return what Dask's configuration says; raises `OptionError` if that is no number, or no time."""
        import dask  # noqa: PLC0415 - help does without
        from dask.utils import parse_timedelta  # noqa: PLC0415

        attempts, time_given = dask.config.get("dem.read-attempts", 8), dask.config.get("dem.read-retry-time", "60s")
        if isinstance(attempts, bool) or not isinstance(attempts, int) or attempts < 1:
            message = f"dem.read-attempts must be a whole number from 1 on, not {attempts!r}"
            raise OptionError(message)
        try:
            seconds = float(parse_timedelta(time_given))
        except (TypeError, ValueError, KeyError):
            seconds = -1.0
        if not seconds >= 0:
            message = f"dem.read-retry-time must be a number of seconds or such as '1 minute', not {time_given!r}"
            raise OptionError(message)
        return cls(attempts, seconds)

    def anew(self) -> Retries:
        """Return the same, with none counted."""
        return Retries(self.attempts, self.seconds)

    @property
    def stopped(self) -> bool:
        """Whether nobody waits for the reads any more."""
        return any(stop.is_set() for stop in self.stops)

    def note(self, error: BaseException) -> None:
        """Count a failed attempt that another follows."""
        with self._lock:
            self.n += 1
            self.why = self.why or reason(error)


_current: ContextVar[Retries | None] = ContextVar("retries", default=None)


@contextmanager
def counted(retries: Retries) -> Iterator[Retries]:
    """Let reads of this thread, and of what it begins in its context, be tried as `retries` says, and count there."""
    token = _current.set(retries)
    try:
        yield retries
    finally:
        _current.reset(token)


def give_up() -> None:
    """Let the reads that are tried again in this context, on whichever thread, come to their end."""
    if (retries := _current.get()) is not None:
        retries.stops[0].set()


def given_up() -> bool:
    """Tell whether nobody waits any more for the reads of this context."""
    return (retries := _current.get()) is not None and retries.stopped


def tried_once() -> Any:
    """Return a context in which no read is tried again: to find out more of one that has failed for good."""
    return counted(Retries(1, 0.0))


@dataclass
class Waited:
    """How long a read has waited for its store: from the first request to the last answer."""

    first: float = math.inf
    last: float = -math.inf

    @property
    def seconds(self) -> float:
        """The time between them; 0 if nothing was asked for."""
        return max(self.last - self.first, 0.0)

    def note(self, began: float) -> None:
        """Count a request that began then and has been answered now."""
        self.first, self.last = min(self.first, began), time.monotonic()


_waited: ContextVar[Waited | None] = ContextVar("waited", default=None)


@contextmanager
def timed() -> Iterator[Waited]:
    """Measure how long what this thread reads meanwhile waits for a store."""
    waited = Waited()
    token = _waited.set(waited)
    try:
        yield waited
    finally:
        _waited.reset(token)


class Attempts:
    """The attempts of one read."""

    def __init__(self) -> None:
        self._retries = _current.get() or Retries.configured()
        self._deadline = time.monotonic() + self._retries.seconds
        self._n = 0

    def pause_after(self, error: Exception) -> float:
        """Return the seconds to wait after a failed attempt; raises the error if it was the last."""
        self._n += 1
        pause: float = min(_FIRST_PAUSE * 2.0 ** (self._n - 1), _LONGEST_PAUSE) * _jitter.uniform(0.5, 1.0)
        if not is_passing(error):
            raise error
        late = time.monotonic() + pause > self._deadline
        if self._n >= self._retries.attempts or late or self._retries.stopped:
            if self._n > 1:
                error.add_note(f"tried {self._n} times")
            raise error
        self._retries.note(error)
        return pause

    def slices(self, pause: float) -> Iterator[float]:
        """Yield the parts of a pause, which ends early once nobody waits for the read any more."""
        end = time.monotonic() + pause
        while (left := end - time.monotonic()) > 0 and not self._retries.stopped:
            yield min(left, _SLICE)


def tried(error: BaseException) -> str:
    """Return how often what an error has ended was tried, to go behind the words of the error."""
    return "".join(f", {note}" for note in getattr(error, "__notes__", ()) if note.startswith("tried "))


def retried(read: Callable[[], T]) -> T:
    """Return what `read` returns, tried again where it fails in passing."""
    attempts = Attempts()
    while True:
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - whatever a store raises; it is raised again
            pause = attempts.pause_after(error)
        for part in attempts.slices(pause):
            time.sleep(part)


async def retried_async(read: Callable[[], Awaitable[T]]) -> T:
    """Return what `read` returns, tried again where it fails in passing."""
    attempts, waited, began = Attempts(), _waited.get(), time.monotonic()
    while True:
        try:
            value = await read()
        except Exception as error:  # noqa: BLE001 - as above
            pause = attempts.pause_after(error)
        else:
            if waited is not None:
                waited.note(began)
            return value
        for part in attempts.slices(pause):
            await asyncio.sleep(part)


def retried_items(read: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Yield what `read` yields, begun anew where it fails in passing: what has been yielded is left out then."""
    attempts, done = Attempts(), 0
    while True:
        try:
            for item in itertools.islice(read(), done, None):
                done += 1
                yield item
        except Exception as error:  # noqa: BLE001 - as above
            pause = attempts.pause_after(error)
        else:
            return
        for part in attempts.slices(pause):
            time.sleep(part)


def is_passing(error: BaseException) -> bool:
    """Tell whether a read that failed by an error may well succeed in a moment.

    Examples
    --------
    >>> is_passing(OSError(errno.EIO, "Input/output error")), is_passing(PermissionError("Access Denied"))
    (True, False)
    """
    if isinstance(error, BaseExceptionGroup):
        return all(is_passing(one) for one in error.exceptions)
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    # What a service has answered says more than the class that a package makes of it.
    for cause in causes:
        status = _status(cause)
        if status is not None:
            return status in _PASSING_STATUS
    return any(_is_passing(cause) for cause in causes)


def _is_passing(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    if isinstance(error, OSError) and error.errno in _PASSING_ERRNO:
        return True
    return any(ancestor.__name__ in _PASSING_CLASSES for ancestor in type(error).__mro__)


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that an error tells, whichever package it is of."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):  # botocore
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        told = (getattr(one, name, None) for one in (error, answer) for name in ("status", "status_code"))
        found = next((one for one in told if one is not None), None)
    return found if isinstance(found, int) and 400 <= found < 600 else None
