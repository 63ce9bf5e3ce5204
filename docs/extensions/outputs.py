"""Run the Python blocks of a page while the site is built, and show what marked ones leave.

What a block printed, raised or drew is shown below it. Where blocks do not run as they stand, the
build fails.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging as python_logging
import os
import sys
import tempfile
import traceback
import warnings
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from torch.distributions import Distribution

from docs.extensions.executing import ALONE, Block, Page

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
        self.env.current_document.setdefault("blocks", []).append(block)
        return [shown, *self._outputs(block)] if block.info else [shown]

    def _outputs(self, block: Block) -> list[nodes.Node]:
        """What this block leaves, the last of those that wait."""
        try:
            printed, error = _run_waiting(self.env)
        except Exception:  # noqa: BLE001 (it is shown, and fails the build)
            raise self.error(f"a block does not run:\n{traceback.format_exc()}") from None
        if block.after("draws") is not None:
            return self._pictures(block)
        text = f"{type(error).__name__}: {error}" if error else printed.rstrip()
        if not text:
            raise self.error("nothing was printed")
        classes = ["output", "table"] if "-----" in text else ["output"]
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
    """Make what is black or dark grey in a figure light, for dark pages."""
    matplotlib = importlib.import_module("matplotlib")
    kinds = {"text.Text": "color", "lines.Line2D": "color", "spines.Spine": "edgecolor"}
    for kind, name in kinds.items():
        for artist in figure.findobj(attrgetter(kind)(matplotlib)):
            colour = getattr(artist, f"get_{name}")()
            if any(matplotlib.colors.same_color(colour, dark) for dark in ("black", "#595959")):
                artist.set(**{name: "#d0d0d0"})


def _run_waiting(env: BuildEnvironment) -> tuple[str, Exception | None]:
    """Run the blocks of a page that wait, in a folder of their own.

    Returns:
        What the last one printed, and the error that it was to raise.
    """
    blocks: list[Block] = env.current_document.pop("blocks", [])
    if "page" not in env.current_document:
        env.current_document["page"] = _fresh(Path(env.doc2path(env.docname)))
    printed, error, place = io.StringIO(), None, Path.cwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(printed),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "\nArviZ is undergoing", FutureWarning)
        warnings.filterwarnings("ignore", "The inplace keyword in DataFrame.sort_values")
        warnings.filterwarnings("ignore", module=r"arviz\.")  # about its own use of pandas
        os.chdir(folder)
        try:
            for block in blocks:
                printed.seek(0)
                printed.truncate()
                error = env.current_document["page"].run(block)
        finally:
            os.chdir(place)
    return printed.getvalue(), error


def _run_rest(app: Sphinx, document: nodes.document) -> None:
    """Run the blocks behind the last marked one, which show nothing."""
    if app.env.docname == ALONE or not app.env.current_document.get("blocks"):
        return
    try:
        _run_waiting(app.env)
    except Exception:  # noqa: BLE001 (a warning fails the build)
        logging.getLogger(__name__).warning(
            "a block does not run:\n%s", traceback.format_exc(), location=app.env.docname
        )


def _fresh(path: Path) -> Page:
    """A page that starts from the same random numbers and switches, wherever it is built."""
    torch.manual_seed(0)
    python_logging.getLogger("arviz.preview").setLevel(python_logging.WARNING)
    Distribution.set_default_validate_args(True)
    sys.modules.get("matplotlib") or importlib.import_module("matplotlib").use("svg")
    return Page(path)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add the directive to Sphinx, and what runs behind it."""
    app.add_directive("python", PythonBlock)
    app.connect("doctree-read", _run_rest)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
