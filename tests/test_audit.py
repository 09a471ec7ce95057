"""What `make check` says of known vulnerabilities."""

from __future__ import annotations

import sys

import audit


def package(name, *vulns):
    return {"name": name, "version": "1.0", "vulns": [{"id": one, "fix_versions": ["1.1"]} for one in vulns]}


def test_what_dem_needs():
    found = audit.needed()
    assert {"dask-em", "numpy", "numcodecs", "tornado", "scikit-learn"} <= found
    assert not {"pytest", "matplotlib", "ruff", "s3fs", "pip"} & found


def test_only_what_dem_needs_fails():
    lines, fails = audit.told({"dependencies": [package("NumPy"), package("Ruff", "A-1", "A-2")]}, {"numpy"})
    assert lines[0] == "Ruff 1.0, a tool: A-1, repaired in 1.1"
    assert (len(lines), fails) == (2, False)
    lines, fails = audit.told({"dependencies": [package("NumPy", "A-3")]}, {"numpy"})
    assert lines == ["NumPy 1.0, which dem needs: A-3, repaired in 1.1"]
    assert fails


def test_a_database_that_is_not_reached_is_one_line(monkeypatch, capsys):
    code = "import sys; sys.exit('Traceback' + chr(10) + {!r})"
    for why, said, failed in [
        ("requests.exceptions.ConnectionError: no route", "the database was not reached", 0),
        ("No module named pip_audit", "pip-audit failed", 1),
    ]:
        monkeypatch.setattr(audit, "COMMAND", [sys.executable, "-c", code.format(why)])
        assert audit.main() == failed
        assert capsys.readouterr().out == f"vulnerabilities: not looked up, {said} ({why})\n"
