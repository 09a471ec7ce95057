"""The command line. What takes time to import is imported inside the commands: help comes at once."""

from dem.cli.main import dem

__all__ = ["dem"]
