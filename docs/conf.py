"""How the documentation is built: `make docs`."""

from __future__ import annotations

import declarative_dist

project = "declarative_dist"
author = "The authors of declarative_dist"
release = version = declarative_dist.__version__
html_title = "declarative_dist"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]
root_doc = "index"

myst_enable_extensions = ["attrs_block", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autodoc_typehints = "none"
autodoc_member_order = "bysource"

html_theme = "furo"
