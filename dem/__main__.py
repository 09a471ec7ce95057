"""`python -m dem`, and what the command `dem` calls."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line of this process; Ctrl-C is one line also while it is being imported."""
    try:
        from dem.cli.main import main as command  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("dem: stopped\n")
        sys.exit(128 + signal.SIGINT)
    command()


if __name__ == "__main__":
    main()
