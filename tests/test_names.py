"""What pages and scripts outside `dem` name is there: files, functions, classes."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import dem
from dem.estimators.registry import ESTIMATORS

ROOT = Path(__file__).parent.parent
ROOMS = sorted(
    path.stem for path in (ROOT / "dem").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
)
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SCRIPTS = sorted(path for folder in ("benchmarks", "examples", "deploy") for path in (ROOT / folder).rglob("*.py"))


def is_there(dotted):
    """Tell whether a name such as ``dem.em.loop.run`` is a module or something in one."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("dem"):
                return True  # an optional package
            continue
        for name in parts[n:]:
            # Fields of dataclasses and attributes that are only annotated are no attributes of the class.
            if not hasattr(found, name) and name not in getattr(found, "__annotations__", {}):
                return False
            found = getattr(found, name, None)
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_what_is_there(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    quoted = re.findall(r"`([^`\n]+)`", text)
    paths = [
        name for name in quoted if re.fullmatch(r"[\w/]+\.py|(dem|tests|benchmarks|docs|examples|deploy)/[\w/.]*", name)
    ]
    missing = [path for path in paths if not any((folder / path).exists() for folder in (ROOT, ROOT / "dem"))]
    dotted = [
        name.removesuffix("()") for name in quoted if re.fullmatch(rf"(dem|{'|'.join(ROOMS)})(\.\w+)+(\(\))?", name)
    ]
    dotted = [name for name in dotted if not name.endswith(".py")]
    missing += [name for name in dotted if not is_there(name) and not is_there(f"dem.{name}")]
    assert missing == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_scripts_import_what_is_there(script):
    tree = ast.parse(script.read_text())
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module and not node.level]
    names = [
        f"{node.module}.{alias.name}" for node in imported for alias in node.names if node.module.split(".")[0] == "dem"
    ]
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "dem"
    }
    assert [name for name in names if not is_there(name)] == []
    assert [name for name in used if not hasattr(dem, name)] == []


def test_the_models_that_know_no_gaps_are_named():
    said = re.search(r"\*\*Which models\.\*\*(.*?)\n\n", (ROOT / "docs" / "rows.md").read_text(), re.DOTALL)[1]
    needed = {"BinomialMixture": {"n_trials": 3}, "Mixture": {"families": {0: "gaussian"}}}
    for entry in ESTIMATORS.values():
        name = entry.class_name
        knows = entry.is_mixture and entry.load()(**needed.get(name, {}))._component().marginalises
        assert knows == (f"`{name}`" not in said), name
