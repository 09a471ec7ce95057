"""How much memory processes have used at most."""

from __future__ import annotations

import os
import resource
import sys


def peak_memory() -> tuple[int, int]:
    """Return the id of this process and the most memory (resident set, bytes) it has held so far.

    Runs on workers. Linux' `VmHWM` is preferred: after a fork and exec `getrusage` still reports the peak of
    the process that forked.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:  # noqa: PTH123
            for line in status:
                if line.startswith("VmHWM:"):
                    return os.getpid(), int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return os.getpid(), peak if sys.platform == "darwin" else peak * 1024
