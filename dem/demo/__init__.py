"""The demonstration: real photographs, more data than memory, end to end."""

from dem.demo.run import Demo, DemoReport, run_demo

__all__ = ["Demo", "DemoReport", "run_demo"]
