"""Log densities of unconstrained vectors, for samplers and optimisers of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from declarative_dist.errors import ConstraintError, DeclarationError, shorten
from declarative_dist.fields.kinds import lacks_forward
from declarative_dist.latents.flat import FlatMap
from declarative_dist.latents.named import Values
from declarative_dist.plain.refusals import BROADCAST

LogJoint = Callable[[Values], Tensor]
"""From values `(*sample, *batch, *event)` by site to log densities `(*sample, *batch)`."""


def as_log_joint(log_joint: Any, subject: str) -> LogJoint:
    """A log density of dicts: a function, a module, or the method of what has one.

    Raises:
        DeclarationError: if it is none of these.
    """
    method = "log_joint" if hasattr(log_joint, "losses") else "log_prob"
    function: Any = getattr(log_joint, method, log_joint)
    if not callable(function) or lacks_forward(function):
        raise DeclarationError(
            subject,
            "a function from a dict of values by site to their log density",
            f"a {type(log_joint).__name__}, which has no forward"
            if callable(function)
            else shorten(log_joint),
            "Write def log_joint(values): return latents.log_prior(values) + log_likelihood(...).",
            code="not-a-density",
        )
    return function  # type: ignore[return-value, unused-ignore]


def check_density(log_p: object, shape: torch.Size, subject: str = "log_joint") -> Tensor:
    """Refuse what a log joint density returned, where it is not one number for each draw.

    Raises:
        ConstraintError: naming the shape `(*sample, *batch)` that it should have.
    """
    if isinstance(log_p, Tensor) and log_p.shape == shape:
        return log_p
    raise ConstraintError(
        subject,
        f"log densities of shape (*sample, *batch) = {tuple(shape)}",
        f"shape {tuple(log_p.shape)}" if isinstance(log_p, Tensor) else shorten(log_p),
        "Sum over the last dimensions only, of data and events: .sum(-1), not .sum(). "
        f"{BROADCAST} For a function of a single draw there is NegativeELBO(vectorize=True).",
        code="wrong-shape",
    )


class UnconstrainedLogDensity(nn.Module):
    """The log density of unconstrained vectors, for samplers and optimisers of other libraries.

    At a vector it is the log joint density of the values there, and the log of the volume change;
    so its mode is the MAP estimate in the unconstrained space, and draws of a sampler, mapped
    back, are draws of the values. It can be differentiated, compiled and mapped with `torch.func`.

    Args:
        flat: the map from vectors to values.
        log_joint: from a dict of values to log densities.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Declarative, Param, Positive
        >>> class Latents(Declarative):
        ...     rate = Param(2.0, Positive())
        >>> density = Latents().unconstrained_log_density(
        ...     lambda values: dd.Gamma(2.0, 3.0).log_prob(values["rate"])
        ... )
        >>> density(density.start()).shape, density.constrain(density.start())
        (torch.Size([]), {'rate': tensor(2.)})
    """

    def __init__(self, flat: FlatMap, log_joint: object) -> None:
        super().__init__()
        self.flat = flat
        self.log_joint = as_log_joint(log_joint, f"{flat.owner}.unconstrained_log_density")

    if TYPE_CHECKING:

        def __call__(self, vector: Tensor) -> Tensor: ...

    @property
    def size(self) -> int:
        """How many numbers a vector has."""
        return self.flat.size

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of independent copies."""
        return self.flat.batch_shape

    def start(self) -> Tensor:
        """The vector of the starting values, of shape `(*batch, size)`."""
        return self.flat.start()

    def constrain(self, vector: Tensor) -> Values:
        """The values of vectors `(*sample, *batch, size)`, such as a sampler's draws, by site."""
        return self.flat(vector)

    def unconstrain(self, values: Mapping[str, Any]) -> Tensor:
        """The vector `(*sample, *batch, size)` of values by site.

        Raises:
            ConstraintError: for names or shapes that do not fit, or values outside their support.
        """
        return self.flat.unconstrain(values)[0]

    def forward(self, vector: Tensor) -> Tensor:
        """The log density of vectors `(*sample, *batch, size)`, of shape `(*sample, *batch)`.

        Raises:
            ConstraintError: if the log joint density has another shape.
        """
        values, log_det = self.flat.constrain(vector)
        return check_density(self.log_joint(values), log_det.shape) + log_det
