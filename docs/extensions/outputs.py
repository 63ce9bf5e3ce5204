"""Show, below a Python block of a page, what running it printed, raised or drew.

Blocks down to the last marked one of a page are run while the site is built. The tests run whole
pages, but those that the build runs to their end.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import sys
import traceback
import warnings
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from torch.distributions import Distribution

from docs.extensions.executing import Block, Page

PICTURES = "_build/pictures"


class PythonBlock(SphinxDirective):
    """A fence of Python, and what it leaves behind."""

    has_content = True
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        text = "\n".join(self.content)
        block = Block(" ".join(self.arguments), f"{text}\n", self.lineno)
        shown = nodes.literal_block(text, text, language="python")
        self.set_source_info(shown)
        waiting: list[Block] = self.env.current_document.setdefault("blocks", [])
        waiting.append(block)
        return [shown, *self._outputs(waiting)] if block.info else [shown]

    def _outputs(self, waiting: list[Block]) -> list[nodes.Node]:
        """Run all blocks that wait, of which the last is shown with what it leaves."""
        if "page" not in self.env.current_document:
            self.env.current_document["page"] = _fresh(Path(self.env.doc2path(self.env.docname)))
        page: Page | None = self.env.current_document["page"]
        if page is None:  # broken further up
            return []
        printed, error = io.StringIO(), None
        with contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "\nArviZ is undergoing", FutureWarning)
            warnings.filterwarnings("ignore", "The inplace keyword in DataFrame.sort_values")
            warnings.filterwarnings("ignore", module=r"arviz\.")  # about its own use of pandas
            try:
                while waiting:
                    block = waiting.pop(0)
                    printed.seek(0)
                    printed.truncate()
                    error = page.run(block)
            except Exception:  # noqa: BLE001 (whatever went wrong is told)
                self.env.current_document["page"] = None
                raise self.error(f"a block does not run:\n{traceback.format_exc()}") from None
        if block.after("draws") is not None:
            return self._pictures(block)
        text = f"{type(error).__name__}: {error}" if error else printed.getvalue().rstrip()
        if not text:
            raise self.error("nothing was printed")
        classes = ["output"] if error else ["output", "printed"]
        return [nodes.literal_block(text, text, language="text", classes=classes)]

    def _pictures(self, block: Block) -> list[nodes.Node]:
        """Save the current figure for light and for dark pages, and point at both."""
        pyplot = importlib.import_module("matplotlib.pyplot")
        figure, stem = pyplot.gcf(), f"{self.env.docname.replace('/', '-')}-{block.line}"
        folder = Path(self.env.srcdir) / PICTURES
        folder.mkdir(parents=True, exist_ok=True)
        images: list[nodes.Node] = []
        for scheme, ending in (("light", ""), ("dark", "-dark")):
            if scheme == "dark":
                darken(figure)
            how: Any = {"bbox_inches": "tight", "transparent": True, "metadata": {"Date": None}}
            figure.savefig(folder / f"{stem}{ending}.svg", **how)
            uri, classes = f"/{PICTURES}/{stem}{ending}.svg", [f"only-{scheme}"]
            images.append(nodes.image(uri=uri, alt=block.after("draws"), classes=classes))
        pyplot.close("all")
        return images


def darken(figure: Any) -> None:
    """Make what is black in a figure light: text, ticks and frames, for dark pages."""
    matplotlib = importlib.import_module("matplotlib")
    kinds = {"text.Text": "color", "lines.Line2D": "color", "spines.Spine": "edgecolor"}
    for kind, name in kinds.items():
        for artist in figure.findobj(attrgetter(kind)(matplotlib)):
            if matplotlib.colors.same_color(getattr(artist, f"get_{name}")(), "black"):
                artist.set(**{name: "#d0d0d0"})


def _fresh(path: Path) -> Page:
    """A page that starts from the same random numbers and switches, wherever it is built."""
    torch.manual_seed(0)
    logging.getLogger("arviz.preview").setLevel(logging.WARNING)
    Distribution.set_default_validate_args(True)
    sys.modules.get("matplotlib") or importlib.import_module("matplotlib").use("svg")
    return Page(path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Tell Sphinx of the directive."""
    app.add_directive("python", PythonBlock)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
