"""Lists that a page takes from elsewhere: its own pictures, small, and all examples."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class Thumbnails(SphinxDirective):
    """The pictures of this page, each a link to its section."""

    def run(self) -> list[nodes.Node]:
        return [nodes.container(classes=["thumbnails"])]


def _fill(app: Sphinx, page: nodes.document) -> None:
    """Put a copy of each picture into the place for them, once the page was read."""
    for place in page.findall(
        lambda node: "thumbnails" in getattr(node, "attributes", {}).get("classes", ())
    ):
        for picture in list(page.findall(nodes.image)):
            small = nodes.image(uri=picture["uri"], classes=picture["classes"])
            if "only-dark" in picture["classes"]:  # the one for light pages stands before it
                small["alt"] = place[-1][0][0]["alt"]
                place[-1][0].insert(1, small)
                continue
            section = picture.parent
            while not isinstance(section, nodes.section):
                section = section.parent
            title = section.next_node(nodes.title).astext()
            link = nodes.reference("", "", refid=section["ids"][0], internal=True)
            small["alt"] = title
            link += small
            link += nodes.inline("", title)
            place += nodes.paragraph("", "", link)


class Examples(SphinxDirective):
    """A link to each file of `examples`, with the first sentence of its docstring."""

    def run(self) -> list[nodes.Node]:
        folder = Path(self.env.srcdir).parent / "examples"
        lines = []
        for path in sorted(folder.glob("*.py")):
            said = ast.get_docstring(ast.parse(path.read_text())) or ""
            first = " ".join(said.split("\n\n")[0].split())
            lines.append(f"* [{path.name}](../examples/{path.name}): {first}")
        return self.parse_text_to_nodes("\n".join(lines))


def setup(app: Sphinx) -> dict[str, Any]:
    """Add both directives to Sphinx."""
    app.add_directive("thumbnails", Thumbnails)
    app.add_directive("examples", Examples)
    app.connect("doctree-read", _fill, priority=400)  # before Sphinx collects the pictures
    return {"parallel_read_safe": True, "parallel_write_safe": True}
