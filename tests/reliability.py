"""The table of docs/reliability.md: a row for each test that is marked with a fault; see `make reliability`.

A test that brings a fault about says so with ``@pytest.mark.reliability(fault=…, sees=…, lost=…, recovery=…)``;
what it says stands in the table, so that no row is without a test. The files are parsed, not imported.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "reliability.md"
COLUMNS = ("fault", "sees", "lost", "recovery")
TABLE = re.compile(r"(<!-- tests:reliability -->\n).*?(<!-- /tests:reliability -->)", re.DOTALL)


def marks(tests: Path = TESTS) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield where each marked test stands and what its mark says."""
    for path in sorted(tests.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, "decorator_list", []):
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.reliability":
                    said = {keyword.arg: ast.literal_eval(keyword.value) for keyword in mark.keywords}
                    if mark.args or tuple(said) != COLUMNS or not all(said.values()):
                        message = f"{path.name}:{mark.lineno}: a reliability mark takes {COLUMNS}, in this order"
                        raise ValueError(message)
                    yield f"{path.name}::{node.name}", said


def table(tests: Path = TESTS) -> str:
    """Return the table in Markdown."""
    rows = [["what happens", "what you see", "what is lost", "time to recover", "test"], ["---"] * 5]
    rows += [[*(said[column] for column in COLUMNS), f"`{place}`"] for place, said in marks(tests)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def page() -> str:
    """Return the page as it should be."""
    return TABLE.sub(lambda found: f"{found[1]}{table()}\n{found[2]}", PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
