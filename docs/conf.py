from __future__ import annotations

from importlib import metadata
from pathlib import Path

from dem.estimators.registry import ESTIMATORS

project = "dem"
author = "The dem developers"
copyright = "2026, The dem developers"  # noqa: A001
release = metadata.version("dask-em")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
napoleon_google_docstring = False
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell types in numpydoc's words

html_theme = "furo"
html_title = f"dem {release}"
html_copy_source = False


def leave_out(_app, _what, name, _obj, skip, _options):
    """Leave out what scikit-learn adds to every estimator: it refers to pages that only its own docs have."""
    routing = name == "get_metadata_routing" or (name.startswith("set_") and name.endswith("_request"))
    return skip or routing or name == "set_output"


PAGE = """# {name}

```{{eval-rst}}
.. autoclass:: dem.{name}
   :members:
   :inherited-members: BaseEstimator
```
"""


def write_pages(app):
    """Make a page of each model from its docstring, and the table of them all in families.md, from the registry."""
    folder = Path(app.srcdir) / "families"
    folder.mkdir(exist_ok=True)
    for page in folder.iterdir():
        if page.stem not in ESTIMATORS:
            page.unlink()
    rows = ["| `--family` | class | |", "|---|---|---|"]
    for family, entry in ESTIMATORS.items():
        name, summary = entry.class_name, (entry.load().__doc__ or "").splitlines()[0]
        rows.append(f"| `{family}` | `dem.{name}` | {summary} |")
        _write(folder / f"{family}.md", PAGE.format(name=name))
    page = folder.with_suffix(".md")
    before, _, rest = page.read_text().partition("<!-- models -->\n")
    table = "\n".join(rows)
    _write(page, f"{before}<!-- models -->\n{table}\n<!-- /models -->{rest.partition('<!-- /models -->')[2]}")


def _write(path, text):
    """Leave a file alone that has this text already: Sphinx reads again what is new."""
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def setup(app):
    """Connect the hooks; called by Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-skip-member", leave_out)
