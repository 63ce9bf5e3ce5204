"""What the documentation says of other libraries, tried on those that are installed.

    python benchmarks/claims.py

Prints a line per claim: whether it holds, or that the library is missing. A claim that no longer
holds is one to take out of `docs/comparison.md`.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.distributions as dd
from torch import nn
from torch.nn.utils import parametrize

Claim = Callable[[], bool]
CLAIMS: dict[str, Claim] = {}


def claim(sentence: str) -> Callable[[Claim], Claim]:
    """Note a claim, "Library: what it does"."""

    def note(holds: Claim) -> Claim:
        CLAIMS[sentence] = holds
        return holds

    return note


def fails(attempt: Callable[[], object]) -> bool:
    """Whether an attempt ends in an error."""
    try:
        attempt()
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AttributeError):
        return True
    return False


class ExpMap(nn.Module):
    """A map in torch's convention."""

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        """To positive numbers."""
        return raw.exp()

    def right_inverse(self, value: torch.Tensor) -> torch.Tensor:
        """And back."""
        return value.log()


class Scale(nn.Module):
    """A positive number of 2 through a parametrization."""

    def __init__(self) -> None:
        super().__init__()
        self.scale: Any = nn.Parameter(torch.tensor(2.0))
        parametrize.register_parametrization(self, "scale", ExpMap())


@claim("parametrize: a value outside becomes NaN")
def _() -> bool:
    module = Scale()
    module.scale = torch.tensor(-1.0)
    return bool(module.scale.isnan())


@claim("parametrize: an instance cannot be pickled")
def _() -> bool:
    return fails(lambda: pickle.dumps(Scale()))


@claim("parametrize: a value inside cached() does not follow an optimizer's step")
def _() -> bool:
    module = Scale()
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    with parametrize.cached():
        module.scale.backward()
        optimizer.step()
        kept = module.scale.item()
    return bool(kept == 2.0 and module.scale < 1.0)


@claim("torch: transform_to(positive) gives 0 at -104 and infinity at 89")
def _() -> bool:
    value = dd.transform_to(dd.constraints.positive)(torch.tensor([-104.0, 89.0]))
    return bool(value[0] == 0 and value[1].isinf())


def pyro_normal() -> Any:
    """A `PyroModule` with a positive scale of 1."""
    library = importlib.import_module("pyro.nn")
    module = library.PyroModule()
    module.scale = library.PyroParam(torch.tensor(1.0), constraint=dd.constraints.positive)
    return module


@claim("pyro: a value outside becomes NaN")
def _() -> bool:
    module = pyro_normal()
    module.scale = torch.tensor(-1.0)
    return bool(module.scale.isnan())


@claim("pyro: a raw number of -110 gives a scale of 0")
def _() -> bool:
    module = pyro_normal()
    with torch.no_grad():
        module.scale_unconstrained.fill_(-110.0)
    return bool(module.scale == 0)


@claim("pyro: a frozen parameter is trainable again once its module was called")
def _() -> bool:
    library = importlib.import_module("pyro.nn")

    class Frozen(library.PyroModule):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0), requires_grad=False)

        def forward(self) -> Any:
            return self.weight

    module = Frozen()
    before = module.weight.requires_grad
    module()
    return bool(not before and module.weight.requires_grad)


@claim("zuko: its import switches torch's validation off")
def _() -> bool:
    dd.Distribution.set_default_validate_args(True)
    importlib.import_module("zuko")  # for the first time in this process
    is_off = not dd.Distribution._validate_args
    dd.Distribution.set_default_validate_args(True)
    return is_off


@claim("zuko: Adam takes a learned scale below zero, and the loss is NaN")
def _() -> bool:
    lazy = importlib.import_module("zuko.lazy")
    dd.Distribution.set_default_validate_args(False)
    try:
        q = lazy.UnconditionalDistribution(dd.Normal, torch.tensor(0.0), torch.tensor(0.05))
        optimizer = torch.optim.Adam(q.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            loss = -q().log_prob(torch.zeros(10)).mean()
            loss.backward()
            optimizer.step()
        return math.isnan(loss.item())
    finally:
        dd.Distribution.set_default_validate_args(True)


def rs() -> Any:
    """The live distributions of rs-distributions."""
    return importlib.import_module("rs_distributions.modules")


@claim("rs_distributions: Bernoulli(logits=) and MultivariateNormal(scale_tril=) fail")
def _() -> bool:
    library = rs()
    zeros, eye = torch.zeros(2), torch.eye(2)
    return fails(lambda: library.Bernoulli(logits=zeros)) and fails(
        lambda: library.MultivariateNormal(zeros, scale_tril=eye)
    )


@claim("rs_distributions: an assignment shadows the parameter")
def _() -> bool:
    q = rs().Normal(torch.tensor(0.0), torch.tensor(1.0))
    q.loc = 3.0
    return bool(q.loc == 3.0 and q.mean == 0.0)


@claim("rs_distributions: torch's kl_divergence does not take it")
def _() -> bool:
    q = rs().Normal(torch.tensor(0.0), torch.tensor(1.0))
    return fails(lambda: dd.kl_divergence(q, dd.Normal(0.0, 1.0)))


@claim("rs_distributions: an Independent has no parameters")
def _() -> bool:
    library = rs()
    inner = library.Normal(torch.zeros(2), torch.ones(2))
    return not list(library.Independent(inner, 1).parameters())


@claim("rs_distributions: a raw number of -110 of a scale is an error")
def _() -> bool:
    q = rs().Normal(torch.tensor(0.0), torch.tensor(1.0))
    with torch.no_grad():
        dict(q.named_parameters())["_transformed_scale._value"].fill_(-110.0)
    return fails(lambda: q.log_prob(torch.tensor(0.0)))


def gpytorch_module() -> Any:
    """A module with a positive raw number."""
    library = importlib.import_module("gpytorch")
    module = library.Module()
    module.register_parameter("raw_scale", nn.Parameter(torch.zeros(())))
    module.register_constraint("raw_scale", library.constraints.Positive())
    return module


@claim("gpytorch: a value outside is refused")
def _() -> bool:
    module = gpytorch_module()
    raw = module.raw_scale_constraint.inverse_transform(torch.tensor(-1.0))
    return fails(lambda: module.initialize(raw_scale=raw))


@claim("gpytorch: a raw number of -10,000 gives 0")
def _() -> bool:
    return bool(gpytorch_module().raw_scale_constraint.transform(torch.tensor(-1e4)) == 0)


def main() -> None:
    """Try all claims."""
    for sentence, holds in CLAIMS.items():
        library = sentence.partition(":")[0]
        is_torchs = library in ("torch", "parametrize")
        if not is_torchs and importlib.util.find_spec(library) is None:
            told = "missing"
        else:
            told = "holds" if holds() else "NO LONGER HOLDS"
        print(f"{told:>15}  {sentence}")


if __name__ == "__main__":
    main()
