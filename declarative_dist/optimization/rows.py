"""Parameters of independent problems as one matrix: a row of numbers for each problem."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

Closure = Callable[[], Tensor]
"""Gives the losses at the current numbers, one for each problem, of shape `(*copies,)`."""

LinAlgError: type[Exception] = vars(torch.linalg)["LinAlgError"]
"""What torch raises for a matrix that it cannot decompose."""

REFUSALS: tuple[type[Exception], ...] = (ValueError, ArithmeticError, LinAlgError)
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
        self.parameters = list(parameters)
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
        """A matrix as tensors in the shapes of the parameters."""
        pieces = matrix.split(self.sizes, 1)
        return [piece.reshape(p.shape) for p, piece in zip(self.parameters, pieces, strict=True)]

    def write(self, matrix: Tensor) -> None:
        """Set all numbers, in place."""
        with torch.no_grad():
            for parameter, piece in zip(self.parameters, self.split(matrix), strict=True):
                parameter.copy_(piece)

    def losses(self, closure: Closure) -> Tensor:
        """The losses of all problems, of shape `(problems,)`."""
        losses = closure()
        return losses.reshape(-1) if losses.shape == self.copies else losses.sum().reshape(1)

    def attempt(self, closure: Closure, matrix: Tensor, fallback: Tensor) -> Tensor:
        """The losses at other numbers; infinite where there is none. The numbers stay there.

        A closure may have a method `find_refused`, which says at which numbers it has no loss for
        a problem; for the others the losses are computed with those at `fallback`.
        """
        self.write(matrix)
        find = getattr(closure, "find_refused", None)
        nowhere = torch.full_like(matrix[:, 0], torch.inf)
        with torch.no_grad():
            try:
                refused = None if find is None else find()
                if refused is not None and refused.any():
                    if refused.all():
                        return nowhere
                    self.write(torch.where(refused.reshape(-1, 1), fallback, matrix))
                    return self._finite(closure).masked_fill(refused.reshape(-1), torch.inf)
                return self._finite(closure)
            except REFUSALS:
                return nowhere

    def _finite(self, closure: Closure) -> Tensor:
        losses = self.losses(closure)
        return losses.masked_fill(~losses.isfinite(), torch.inf)
