from __future__ import annotations

from importlib import metadata

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


def setup(app):
    """Connect the hooks; called by Sphinx."""
    app.connect("autodoc-skip-member", leave_out)
