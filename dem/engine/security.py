"""TLS: the certificates with which processes of a cluster know one another."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from distributed.security import Security

from dem.errors import OptionError

#: what stands for certificates made for the processes that dem starts, and kept in memory
TEMPORARY = "temporary"
_ROLES = ("scheduler", "worker", "client")


def security_of(given: str | os.PathLike[str], scheduler: str | None) -> Security:
    """Return the certificates that are asked for; who has none that ``ca.pem`` has signed is turned away.

    Parameters
    ----------
    given : str or path-like
        ``"temporary"``, or a folder: in it ``ca.pem`` and, for each role of scheduler, worker and client, the files
        ``ROLE.pem`` and ``ROLE-key.pem`` as ``deploy/hosts/tls.sh`` makes them, or else ``cert.pem`` and ``key.pem``.
    scheduler : str or None
        Address of a running scheduler; None if it is started here.

    Raises
    ------
    OptionError
        If files are missing, or `given` does not go with the scheduler.
    """
    folder = Path(given).expanduser()
    if os.fspath(given) == TEMPORARY and not folder.exists():
        if scheduler is not None:
            message = (
                f"temporary certificates are for processes that are started; give the folder of those of {scheduler}"
            )
            raise OptionError(message)
        if importlib.util.find_spec("cryptography") is None:
            message = 'temporary certificates need the package cryptography: pip install "dask-em[tls]"'
            raise OptionError(message)
        made: Security = Security.temporary()
        return made
    if scheduler is not None and not scheduler.startswith("tls://"):
        message = f"certificates are for a scheduler that speaks TLS: its address begins with tls://, not {scheduler}"
        raise OptionError(message)
    files: dict[str, Any] = {"tls_ca_file": str(_file(folder, "ca.pem"))}
    for role in ("client",) if scheduler is not None else _ROLES:
        own = (folder / f"{role}.pem").exists()
        files[f"tls_{role}_cert"] = str(_file(folder, f"{role}.pem" if own else "cert.pem"))
        files[f"tls_{role}_key"] = str(_file(folder, f"{role}-key.pem" if own else "key.pem"))
    return Security(require_encryption=True, **files)


def _file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file() or not os.access(path, os.R_OK):
        message = f"the folder of certificates {folder} has no {name} that can be read; deploy/hosts/tls.sh makes them"
        raise OptionError(message)
    return path.absolute()
