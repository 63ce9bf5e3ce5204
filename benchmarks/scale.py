"""What grows (copies, fields, depth), and what happens once (classes, instances, the import)."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributions as dd
from paired import Ratio, compared, interleaved
from problems import Gamma, Normal
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from declarative_dist import Declarative, Exp, Param, Variational

COPIES = 1_000
FIELDS = (1, 10, 50, 200)
DEPTHS = (1, 5, 20)


def _against(case: str, microseconds: list[float], limit: float) -> Ratio:
    """An absolute time over what it may be."""
    times = {"ours": [1e-6 * one for one in microseconds], "limit": [1e-6 * limit]}
    times["limit"] *= len(microseconds)
    return compared(case, times, "ours", "limit", 1.0)


def copies(blocks: int) -> Ratio:
    """A step of 1,000 independent copies over a loop of as many families."""
    together, apart = Normal(batch_shape=(COPIES,)), [Normal() for _ in range(COPIES)]
    data = torch.randn(10, COPIES)
    optimizers = [
        torch.optim.SGD(together.parameters(), lr=1e-6),
        torch.optim.SGD([p for q in apart for p in q.parameters()], lr=1e-6),
    ]

    def one() -> None:
        optimizers[0].zero_grad()
        (-together.log_prob(data)).mean(0).sum().backward()
        optimizers[0].step()

    def many() -> None:
        optimizers[1].zero_grad()
        for at, q in enumerate(apart):
            (-q.log_prob(data[:, at])).mean().backward()
        optimizers[1].step()

    times = interleaved({"batch_shape": one, "a loop": many}, min(blocks, 10))
    return compared(f"a step of {COPIES} Normals", times, "batch_shape", "a loop", 0.01)


def ensemble(blocks: int) -> Iterator[Ratio]:
    """Gradients of 100 instances, stacked and mapped or as one, over a loop of them."""
    members = [Normal(loc=torch.randn(4), scale=torch.rand(4) + 0.5) for _ in range(100)]
    together = Normal(loc=torch.zeros(4), batch_shape=(100,))
    parameters, buffers = stack_module_state(members)
    data, family = torch.randn(10, 4), copy.deepcopy(members[0])

    def loss_of(*state: Any) -> Tensor:
        q: Any = functional_call(family, state, ())
        loss: Tensor = -q.log_prob(data).sum(-1).mean()
        return loss

    gradients = vmap(grad(loss_of))

    def one_by_one() -> None:
        for q in members:
            (-q.log_prob(data).sum(-1).mean()).backward()

    def copies_together() -> None:
        (-together.log_prob(data[:, None]).sum(-1).mean(0).sum()).backward()

    functions: dict[str, Callable[[], object]] = {
        "stacked": lambda: gradients(parameters, buffers),
        "batch_shape": copies_together,
        "a loop": one_by_one,
    }
    times = interleaved(functions, min(blocks, 10))
    for way in ("stacked", "batch_shape"):
        yield compared("gradients of 100 Normals", times, way, "a loop")


def with_fields(count: int) -> type[Declarative]:
    """A class of so many fields whose forward reads them all."""

    def forward(self: Any) -> Tensor:
        return torch.stack([getattr(self, name) for name in names]).sum()

    names = [f"field_{at}" for at in range(count)]
    body: dict[str, Any] = {name: Param(1.0, Exp()) for name in names}
    kind: type[Declarative] = types.new_class(
        "Many", (Declarative,), exec_body=lambda space: space.update(body, forward=forward)
    )
    return kind


class Plain(nn.Module):
    """The same without declarations."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.names = [f"raw_field_{at}" for at in range(count)]
        for name in self.names:
            self.register_parameter(name, nn.Parameter(torch.zeros(())))

    def forward(self) -> Tensor:
        """The sum."""
        return torch.stack([getattr(self, name).exp() for name in self.names]).sum()


def fields(count: int, blocks: int) -> Ratio:
    """Forward and backward of a module of many fields over one of as many parameters."""
    declared, plain = with_fields(count)(), Plain(count)
    functions: dict[str, Callable[[], object]] = {
        "declared": lambda: declared().backward(),
        "by hand": lambda: plain().backward(),
    }
    return compared(
        f"a step of {count} fields", interleaved(functions, blocks), "declared", "by hand"
    )


class Innermost(Variational):
    """What everything else is wrapped around."""

    base = dd.Normal
    loc = Param(torch.zeros(2))
    scale = Param(torch.ones(2), Exp())


def _fill(space: dict[str, Any], body: dict[str, Any]) -> None:
    space.update(body)


def nested(depth: int) -> Variational:
    """A family inside so many others, each with a shift of its own."""

    def base(self: Any, inner: dd.Distribution, shift: Tensor) -> dd.Distribution:
        loc, scale = inner.mean + shift, inner.stddev
        return dd.Normal(loc, scale, validate_args=False)

    kind: type[Variational] = Innermost
    for _ in range(depth):
        body = {"inner": kind, "shift": Param(0.0), "base": base}
        kind = types.new_class("Outer", (Variational,), exec_body=partial(_fill, body=body))
    return kind()


def depth(levels: int, blocks: int) -> Ratio:
    """Building a nested family over the same by hand."""
    q = nested(levels)
    raw = [nn.Parameter(torch.zeros(2)) for _ in range(2)]
    shifts = [nn.Parameter(torch.zeros(())) for _ in range(levels)]

    def by_hand() -> dd.Normal:
        distribution = dd.Normal(raw[0], raw[1].exp())
        for shift in shifts:
            loc, scale = distribution.mean + shift, distribution.stddev
            distribution = dd.Normal(loc, scale, validate_args=False)
        return distribution

    times = interleaved({"q()": q, "by hand": by_hand}, blocks)
    return compared(f"building at depth {levels}", times, "q()", "by hand")


def classes(blocks: int) -> Ratio:
    """A class of two fields."""

    def make() -> None:
        class Family(Variational):
            base = dd.Gamma
            concentration = Param(1.0)
            rate = Param(1.0, Exp())

    times = interleaved({"ours": make}, blocks, 5)["ours"]
    return _against("a class, over 500 µs", [1e6 * one for one in times], 500.0)


class Bare(nn.Module):
    """A module with two parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.concentration = nn.Parameter(torch.tensor(0.0))
        self.rate = nn.Parameter(torch.tensor(0.0))


def instances(blocks: int) -> Ratio:
    """An instance of two fields over a bare module."""
    times = interleaved({"ours": Gamma, "a bare module": Bare}, blocks)
    return compared("an instance of two fields", times, "ours", "a bare module", 5.0)


def imports(rounds: int) -> Ratio:
    """What importing the package, already byte-compiled, adds to importing torch, over 30 ms."""
    code = (
        "import time, torch, typing_extensions; start = time.perf_counter(); "
        "import declarative_dist; print(1e6 * (time.perf_counter() - start))"
    )
    added = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(rounds + 1):
            done = subprocess.run(  # noqa: S603
                [sys.executable, "-c", code],
                capture_output=True,
                text=True,
                check=True,
                env=environment,
            )
            added.append(float(done.stdout))
    added = added[1:]
    return _against("import over that of torch, over 30 ms", added, 30_000.0)


def cases(blocks: int, only: str) -> Iterator[Ratio]:
    """All of it, if nothing else was asked for."""
    if only not in "scale":
        return
    yield copies(blocks)
    yield from ensemble(blocks)
    yield from (fields(count, blocks) for count in FIELDS)
    yield from (depth(levels, blocks) for levels in DEPTHS)
    yield classes(blocks)
    yield instances(blocks)
    yield imports(10)
