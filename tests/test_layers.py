"""Imports follow the layers: a file imports rows above its own, or files to its left."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import declarative_dist

ROOT = Path(declarative_dist.__file__).parent
ROWS = (
    ("", "words errors randomness"),
    ("plain",
     ("tracing refusals tensors arguments nests supports build decompose indexing draws "
      "restoring batch")),
    ("wrappers", "incomplete cdfs quantiles tails wrapper truncated censored zero_inflated"),
    ("constraints",
     ("band transform constraint scalar half_line interval vector matrix adapters inferred")),
    ("fields",
     ("sharding storage blueprint alignment kinds field value context given constant derived "
      "walk templates parts prior param site")),
    ("declaration", "record rules collect metaclass"),
    ("optimization", "rows lbfgs quadratic newton ends"),
    ("latents", "named flat flat_params density pareto ladder weighted"),
    ("families",
     ("building comparison copies probe keywords priors state values declarative variational "
      "transform clipping features contextual conditional learnable")),
    ("joints", "rule draws choosing flat_sites conditioned distribution learned_ends joint"),
    ("", "snapshots divergence"),
    ("posteriors",
     ("noise gaussian search modes nested sampling pushed guides diagnosis fits targets")),
    ("objectives", "weights data likelihood posterior estimators terms bound elbo"),
    ("fitting",
     ("history parameters progress batches finite evaluation arguments compiled snapshot "
      "checkpoint moments losses clusters starts phases verdict strategies fit")),
    ("display", "rows reading posterior table summary looks sites curves contours trace plot"),
    ("integrations", "arviz lightning"),
    ("", "explain"),
    ("testing", "promise constraint_promises mass distribution_promises checks"),
)  # fmt: skip
"""Folders and their files from the first row to the last, and from left to right."""

ORDER = [f"{folder}.{name}".lstrip(".") for folder, row in ROWS for name in row.split()]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in ROOT.rglob("*.py")
    if path.name != "__init__.py"
}


TREES = {name: ast.parse(path.read_text()) for name, path in FILES.items()}


def imports_of(tree: ast.Module) -> set[str]:
    """The modules of the package that a file imports when it runs."""
    found = set()
    guarded = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in guarded:
            module = (node.module or "").removeprefix("declarative_dist").lstrip(".")
            if (node.module or "").startswith("declarative_dist"):
                inner = {f"{module}.{alias.name}".lstrip(".") for alias in node.names}
                found |= (inner & set(FILES)) or {module}
    return found


def test_every_file_has_its_place() -> None:
    assert sorted(FILES) == sorted(ORDER)


def test_imports_point_up_or_left() -> None:
    for at, name in enumerate(ORDER):
        assert imports_of(TREES[name]) <= set(ORDER[:at]), name


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield f"{name}.{node.name}", node


def test_no_import_hides_in_a_function() -> None:
    for name, function in functions():
        inner = [n for n in ast.walk(function) if isinstance(n, (ast.Import, ast.ImportFrom))]
        assert not inner, name


def test_files_and_functions_are_small() -> None:
    for name, path in FILES.items():
        assert path.read_text().count("\n") <= 400, name
    for name, function in functions():
        body = (function.end_lineno or 0) - function.lineno + 1
        assert body - (ast.get_docstring(function) or "").count("\n") <= 60, name
