"""A setting of the whole process that is in force while any of its threads wants it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, _GeneratorContextManager, contextmanager


def shared_setting(
    setting: Callable[[], AbstractContextManager[object]],
) -> Callable[[], _GeneratorContextManager[None]]:
    """Return a context, or decorator, that threads may enter and leave at different times.

    The first that enters makes the setting, the last that leaves takes it back.
    """
    lock, made, n_inside = threading.Lock(), ExitStack(), 0

    @contextmanager
    def shared() -> Iterator[None]:
        nonlocal n_inside
        with lock:
            if n_inside == 0:
                made.enter_context(setting())
            n_inside += 1
        try:
            yield
        finally:
            with lock:
                n_inside -= 1
                if n_inside == 0:
                    made.close()

    return shared
