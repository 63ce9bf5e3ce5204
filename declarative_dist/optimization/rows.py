"""Parameters of independent problems as one matrix: a row of numbers for each problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from declarative_dist.plain.refusals import LinAlgError

Closure = Callable[[], Tensor]
"""Gives the losses at the current numbers, one for each problem, of shape `(*copies,)`."""

NO_LOSS: tuple[type[Exception], ...] = (ValueError, ArithmeticError, LinAlgError)
"""What a closure may raise at numbers that it has no loss for: they count as infinitely bad."""


class Rows:
    """The numbers of parameters as a matrix of shape `(problems, numbers)`.

    Args:
        parameters: tensors of shape `(*copies, *own)`.
        copies: the shape of independent problems in front of all of them; where one has another
            shape, all numbers are one problem.

    Example:
        >>> import torch
        >>> from declarative_dist.optimization.rows import Rows
        >>> rows = Rows([torch.zeros(2), torch.ones(2, 3)], torch.Size([2]))
        >>> rows.read()
        tensor([[0., 1., 1., 1.],
                [0., 1., 1., 1.]])
    """

    def __init__(self, parameters: Iterable[Tensor], copies: torch.Size = torch.Size()) -> None:
        self.parameters: list[Any] = list(parameters)
        is_apart = all(p.shape[: len(copies)] == copies for p in self.parameters)
        self.copies = copies if is_apart else torch.Size()
        self.problems = self.copies.numel()
        self.sizes = [p.numel() // self.problems for p in self.parameters]
        self.numbers = sum(self.sizes)

    def read(self) -> Tensor:
        """A copy of all numbers."""
        return self.stack([parameter.detach() for parameter in self.parameters])

    def stack(self, tensors: Sequence[Tensor | None]) -> Tensor:
        """Tensors that belong to the parameters, such as gradients, as one matrix."""
        rows = [
            (torch.zeros_like(p) if t is None else t).reshape(self.problems, -1)
            for p, t in zip(self.parameters, tensors, strict=True)
        ]
        return torch.cat(rows, 1)

    def split(self, matrix: Tensor) -> list[Tensor]:
        """A matrix `(rows, numbers)` as the parts of the parameters, of shape `(rows, *own)`."""
        lead, pieces = len(self.copies), matrix.split(self.sizes, 1)
        members = zip(self.parameters, pieces, strict=True)
        return [piece.reshape(len(piece), *p.shape[lead:]) for p, piece in members]

    def write(self, matrix: Tensor) -> None:
        """Set all numbers, in place, unless they are there already."""
        if not torch.equal(matrix, self.read()):
            with torch.no_grad():
                for parameter, piece in zip(self.parameters, self.split(matrix), strict=True):
                    parameter.copy_(piece.reshape(parameter.shape))

    def losses(self, closure: Closure) -> Tensor:
        """The losses of all problems, of shape `(problems,)`."""
        losses = closure()
        return losses.reshape(-1) if losses.shape == self.copies else losses.sum().reshape(1)

    def find_refused(self, closure: Closure) -> Tensor | None:
        """Which problems have no loss now, as a method of the same name of the closure says."""
        find = getattr(closure, "find_refused", None)
        found: Tensor | None = None if find is None else find()
        return None if found is None else found.reshape(self.problems, -1).any(1)

    def attempt(
        self, closure: Closure, matrix: Tensor, fallback: Tensor, *, is_step: bool = True
    ) -> Tensor:
        """The losses at other numbers; infinite where there is none. The numbers stay there.

        Problems that `find_refused` names stay at `fallback`, so that the others get theirs. Minus
        infinity is no loss that a step may lead to.
        """
        self.write(matrix)
        nowhere = torch.full_like(matrix[:, 0], torch.inf)
        try:
            refused = self.find_refused(closure)
            if refused is not None:
                if refused.all():
                    return nowhere
                self.write(torch.where(refused[:, None], fallback, matrix))
            losses = self.losses(closure)
        except NO_LOSS:
            return nowhere
        is_lost = ~losses.isfinite() if is_step else losses.isnan()
        return losses.masked_fill(is_lost if refused is None else is_lost | refused, torch.inf)

    def differentiate(
        self, output: Tensor, *, create_graph: bool = False, mask: Tensor | None = None
    ) -> Tensor:
        """The gradient of the sum of a tensor, as a matrix; zero for what is frozen.

        Also for parameters that have no marked number in a mask `(problems, numbers)`.
        """
        wanted = [p.requires_grad for p in self.parameters]
        if mask is not None:
            pieces = zip(wanted, self.split(mask), strict=True)
            wanted = [is_free and bool(piece.any()) for is_free, piece in pieces]
        members = [p for p, one in zip(self.parameters, wanted, strict=True) if one]
        found = iter(
            torch.autograd.grad(
                output.sum(), members, create_graph=create_graph, retain_graph=True,
                allow_unused=True,
            )
        )  # fmt: skip
        return self.stack([next(found) if one else None for one in wanted])
