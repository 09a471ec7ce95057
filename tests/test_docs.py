"""What the pages hold: their pictures, tables, and between markers what scripts measured. `make docs` builds them."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_markers_and_tables(page):
    text = page.read_text()
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", text)
    assert [picture for picture in pictures if not (page.parent / picture).is_file()] == []
    filled = re.findall(r"<!-- ([\w-]+:[\w-]+) -->.*?\S.*?<!-- /\1 -->", text, re.DOTALL)
    assert filled == re.findall(r"<!-- ([\w-]+:[\w-]+) -->", text), "an empty marker, or one without its end"
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        n_cells = {len(re.findall(r"(?<!\\)\|", re.sub(r"`[^`]*`|\$[^$]*\$", "", row))) for row in table.splitlines()}
        assert len(n_cells) == 1, f"rows of different lengths in the table {table[:80]}"


@pytest.mark.filterwarnings("ignore:component 1 is collapsed")
def test_the_page_of_rows_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = ROOT / "docs" / "rows.md"
    examples = doctest.DocTestParser().get_doctest(path.read_text(), {}, path.name, str(path), 0)
    assert examples.examples
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    told = []
    assert runner.run(examples, out=told.append).failed == 0, "".join(told)


@pytest.mark.slow
def test_pages_say_what_was_measured():
    pytest.importorskip("matplotlib")
    command = [sys.executable, "benchmarks/report.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
