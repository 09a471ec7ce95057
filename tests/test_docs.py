"""The documentation builds without a warning, where Sphinx is installed (`make docs`)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import reliability

DOCS = Path(__file__).parent.parent / "docs"


def test_docs(tmp_path):
    for package in ("sphinx", "furo", "myst_parser"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "set_fit_request" not in (tmp_path / "api.html").read_text()


def test_the_table_of_faults_is_that_of_the_tests():
    assert reliability.PAGE.read_text() == reliability.page(), "run `make reliability`"


def test_a_mark_without_a_word_on_what_is_lost_is_refused(tmp_path):
    (tmp_path / "test_it.py").write_text("@pytest.mark.reliability(fault='a', sees='b', lost='')\ndef test(): ...\n")
    with pytest.raises(ValueError, match=r"test_it.py:1"):
        reliability.table(tmp_path)
