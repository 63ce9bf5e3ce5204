"""How the documentation is built: `make docs`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]

import declarative_dist  # noqa: E402
from declarative_dist.explain import meanings, page  # noqa: E402

project = "declarative_dist"
author = "The authors of declarative_dist"
release = version = declarative_dist.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docs.extensions.docstrings",
    "docs.extensions.galleries",
    "docs.extensions.mathml",
    "docs.extensions.outputs",
]
exclude_patterns = ["_build"]

myst_enable_extensions = [
    "attrs_block", "colon_fence", "deflist", "dollarmath", "fieldlist", "substitution",
]  # fmt: skip
myst_substitutions = {"version": release}
myst_fence_as_directive = ["python"]
myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"declarative_dist\..*\.[A-Z]"),  # type variables
    (
        "py:class",
        r".*\b(Axes|ConstraintTransform|Derived|Field|FlatMap|Live|PushedNormal|Rule|Site)",
    ),
]

# A page for each kind of error, from the text in the wheel, and the list of them.
errors = ROOT / "docs" / "errors"
errors.mkdir(exist_ok=True)
for code in meanings():
    (errors / f"{code}.md").write_text(page(code), encoding="utf-8")
listing = "".join(f"* [{code}](errors/{code}.md): {said}\n" for code, said in meanings().items())
(errors / "list.txt").write_text(listing, encoding="utf-8")

# What torch and Python call the pages that are linked from here: nothing is fetched to build.
intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.txt"),
    "python": ("https://docs.python.org/3/", "inventories/python.txt"),
}

html_theme = "furo"
html_title = f"{project} {release}"
pygments_dark_style = "github-dark"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_logo = html_favicon = "_static/logo.svg"
html_show_copyright = False
html_copy_source = False
html_show_sphinx = False
html_domain_indices = False
