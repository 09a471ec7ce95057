"""Where EM runs: threads of this process or a Dask cluster."""

from dem.engine.base import ByBatch, Engine, Work
from dem.engine.local import LocalEngine, connect, current_engine, current_told, telling

__all__ = ["ByBatch", "Engine", "LocalEngine", "Work", "connect", "current_engine", "current_told", "telling"]
