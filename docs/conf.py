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
