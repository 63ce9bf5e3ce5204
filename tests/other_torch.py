"""What is left out with another torch than the pinned one (`make test-torch`), and why."""

from __future__ import annotations

import re
from pathlib import Path

import torch

ROOT = Path(__file__).parent.parent
PINNED = (ROOT / "constraints.txt").read_text().strip().removeprefix("torch==")
VERSION = torch.__version__.partition("+")[0]

NAMES = (
    "benchmarks", "contributing", "diagnose",
    "example_models", "examples", "geotorch", "inference_data", "lightning", "notebook", "pages",
    "pictures", "pyro", "release", "site", "sklearn", "template", "tensordict", "weighted", "zuko",
)  # fmt: skip
ELSEWHERE = [] if VERSION == PINNED else [*(f"test_{name}.py" for name in NAMES), "with_pyro"]
"""Files about other libraries, examples, pages and releases: nothing in them is about torch."""

EXTRAS = r"integrations\.(lightning|arviz)|public_names_and_signatures"
"""Tests that import an extra which only the pinned torch is tested with."""

COMPILED = "compiled code is promised from torch 2.13 on"
BEFORE = {
    r"compil|inductor|export|no_flag_is_needed|test_given\.py::test_life_as_a_module": COMPILED,
    r"in_one_graph|test_a_fit_takes_them_as_keywords": COMPILED,
    r"every_constraint_passes\[(positive-)?ordered\]": "vmap has no rule for view(dtype)",
    r"sharded_objective|test_processes": "DTensor lacks operators, softplus among them",
    r"cannot_be_drawn\[.*on the meta device\]": "gamma draws have no meta kernel",
    r"test_every_promise\[Topics\]": "vmap calls item() where a tensor indexes another",
    r"ensemble_under_vmap\[Multinomial": "vmap refuses the same in other words",
    r"takes_few_operations": "torch takes one more for the same formula",
    r"foreign_keys_as_in_torch": "a number takes the first entry of a vector when it is loaded",
    r"(by_hand|an_update|resume|is_back)\[(whole-)?LBFGS\]": "LBFGS warns about itself",
}
"""What torch before 2.13 does otherwise, by a pattern of the names of tests."""


def reason_to_skip(test: str) -> str | None:
    """Why a test does not hold with this torch, or None where it does."""
    if VERSION != PINNED and re.search(EXTRAS, test):
        return "the extra is tested with the pinned torch"
    if tuple(map(int, VERSION.split(".")[:2])) >= (2, 13):
        return None
    return next((why for pattern, why in BEFORE.items() if re.search(pattern, test)), None)
