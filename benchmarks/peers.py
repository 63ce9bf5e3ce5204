"""Other ways to write the same problems: by hand, with torch's parametrizations, with libraries.

Each is a function from a problem to its trainable module and to what gives the current
distribution, or None where it cannot express the problem. A library that is not installed is
reported as missing.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
import torch.distributions as dd
from problems import INVERSES, MAPS, Problem
from torch import Tensor, nn
from torch.nn.utils import parametrize

Peer = tuple[list[nn.Parameter], Callable[[], Any]]


def by_hand(problem: Problem, **options: Any) -> Peer:
    """Raw parameters, and a new distribution in every step."""
    raw = problem.raw()
    maps = [(name, MAPS[problem.maps[name]], parameter) for name, parameter in raw.items()]
    make = partial(problem.make, **options)
    return list(raw.values()), lambda: make(**{name: f(p) for name, f, p in maps})


class _Map(nn.Module):
    """A map as a parametrization."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.map, self.inverse = MAPS[name], INVERSES[name]

    def forward(self, raw: Tensor) -> Tensor:
        """The constrained value."""
        return self.map(raw)

    def right_inverse(self, value: Tensor) -> Tensor:
        """The unconstrained one."""
        return self.inverse(value)


def parametrized(problem: Problem) -> Peer:
    """`torch.nn.utils.parametrize`."""
    module = nn.Module()
    for name, value in problem.values.items():
        module.register_parameter(name, nn.Parameter(value.clone()))
        if problem.maps[name] != "real":
            parametrize.register_parametrization(module, name, _Map(problem.maps[name]))
    names = list(problem.values)
    make = problem.make
    return list(module.parameters()), lambda: make(**{n: getattr(module, n) for n in names})


def pyro(problem: Problem) -> Peer:
    """A `PyroModule` with a `PyroParam` per argument, and its `torch.distributions` object."""
    library = importlib.import_module("pyro.nn")
    constraints = dd.constraints
    sets = {
        "real": constraints.real,
        "positive": importlib.import_module("pyro.distributions.constraints").softplus_positive,
        "exp": constraints.positive,
        "cholesky": constraints.lower_cholesky,
    }
    module = library.PyroModule()
    for name, value in problem.values.items():
        setattr(module, name, library.PyroParam(value.clone(), sets[problem.maps[name]]))
    names, make = list(problem.values), problem.make
    return list(module.parameters()), lambda: make(**{n: getattr(module, n) for n in names})


def zuko(problem: Problem) -> Peer:
    """The `UnconditionalDistribution` of zuko, whose import switches validation off: so do we."""
    library: Any = importlib.import_module("zuko.lazy")
    raw, maps, make = problem.raw(), problem.maps, problem.make

    def build(**raw: Tensor) -> dd.Distribution:
        values = {name: MAPS[maps[name]](tensor) for name, tensor in raw.items()}
        return make(**values, validate_args=False)

    module: Any = library.UnconditionalDistribution(build, **raw)
    return list(module.parameters()), module


def gpytorch(problem: Problem) -> Peer | None:
    """A `gpytorch.Module` with its constraints."""
    library = importlib.import_module("gpytorch")
    kinds = {
        "positive": library.constraints.Positive,
        "exp": partial(library.constraints.Positive, torch.exp, torch.log),
    }
    if not set(problem.maps.values()) <= {"real", *kinds}:
        return None
    module = library.Module()
    for name, raw in problem.raw().items():
        module.register_parameter(name=f"raw_{name}", parameter=raw)
        if problem.maps[name] != "real":
            module.register_constraint(f"raw_{name}", kinds[problem.maps[name]]())
    parts = [
        (name, f"raw_{name}", getattr(module, f"raw_{name}_constraint", None))
        for name in problem.values
    ]
    make = problem.make

    def build() -> dd.Distribution:
        return make(
            **{
                name: getattr(module, raw)
                if held is None
                else held.transform(getattr(module, raw))
                for name, raw, held in parts
            }
        )

    return list(module.parameters()), build


def rs_distributions(problem: Problem) -> Peer | None:
    """A live distribution of rs-distributions, which rebuilds itself in every call."""
    library = importlib.import_module("rs_distributions.modules")
    kind: Any = getattr(library, getattr(problem.make, "__name__", ""), None)
    if kind is None or not inspect.isclass(kind) or "cholesky" in problem.maps.values():
        return None
    module: Any = kind(**problem.values)
    return list(module.parameters()), lambda: module


PEERS: dict[str, Callable[[Problem], Peer | None]] = {
    "by hand": by_hand,
    "by hand, not validated": partial(by_hand, validate_args=False),
    "parametrize": parametrized,
    "PyroModule": pyro,
    "zuko": zuko,
    "GPyTorch": gpytorch,
    "rs-distributions": rs_distributions,
}

LIBRARIES = {
    "PyroModule": "pyro",
    "zuko": "zuko",
    "GPyTorch": "gpytorch",
    "rs-distributions": "rs_distributions",
}


def installed() -> tuple[dict[str, Callable[[Problem], Peer | None]], list[str]]:
    """The peers that can run here, and the names of those that are missing."""
    missing = [name for name, library in LIBRARIES.items() if _imported(library) is None]
    dd.Distribution.set_default_validate_args(True)  # zuko's import switches it off
    return {name: peer for name, peer in PEERS.items() if name not in missing}, missing


def _imported(library: str) -> ModuleType | None:
    try:
        return importlib.import_module(library)
    except ImportError:
        return None
