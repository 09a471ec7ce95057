"""Known vulnerabilities of what is installed beside this Python (`make check`), by pip-audit and the database of OSV.

It fails for packages that dem needs; those of the tools are told of. Where the database is not reached it says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = [sys.executable, "-m", "pip_audit", "--local", "--skip-editable", "-s", "osv", "--progress-spinner", "off"]
# Packages in the requirements of one, and whether they are of an extra.
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?P<of_extra>.*\bextra\b)?")


def plain(name: str) -> str:
    """Return the name of a package as all spell it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(name: str = "dask-em") -> set[str]:
    """Return a package and all that it needs where no extra is asked for, as far as they are installed."""
    found, left = set(), [name]
    while left:
        name = plain(left.pop())
        if name in found:
            continue
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:  # of another system, or another Python
            continue
        found.add(name)
        left += [one[1] for one in map(_REQUIREMENT.match, requirements) if not one["of_extra"]]
    return found


def told(report: dict, ours: set[str]) -> tuple[list[str], bool]:
    """Return a line for each vulnerability that a report of pip-audit lists, and whether one is in `ours`."""
    lines, fails = [], False
    for package in report["dependencies"]:
        for known in package.get("vulns", ()):
            is_ours = plain(package["name"]) in ours
            fails |= is_ours
            repaired = ", ".join(known["fix_versions"]) or "no version yet"
            whose = "which dem needs" if is_ours else "a tool"
            lines.append(f"{package['name']} {package['version']}, {whose}: {known['id']}, repaired in {repaired}")
    return lines, fails


def main() -> int:
    """Return 1 if what dem needs is known to be vulnerable."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [*COMMAND, "--timeout", "5", "--format", "json", "--output", report]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if report.exists():
            lines, fails = told(json.loads(report.read_text()), needed())
        else:
            why = (run.stderr.strip().splitlines() or ["it does not say why"])[-1][:150]
            fails = not re.search(r"requests\.exceptions|ServiceError|Timeout", run.stderr)
            lines = [f"not looked up, {'pip-audit failed' if fails else 'the database was not reached'} ({why})"]
    told_of = lines or ["none known in the packages that are installed"]
    sys.stdout.writelines(f"vulnerabilities: {line}\n" for line in told_of)
    return int(fails)


if __name__ == "__main__":
    sys.exit(main())
