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

LogJoint = Callable[[Values], Tensor]
"""From values `(*sample, *batch, *event)` by site to log densities `(*sample, *batch)`."""


def as_log_joint(log_joint: Any, subject: str) -> LogJoint:
    """A log density of dicts: a function, a module, or the method of what has one.

    Raises:
        DeclarationError: if it is none of these, or a log posterior of data to be given.
    """
    posterior = getattr(log_joint, "log_joint", None) if hasattr(log_joint, "losses") else None
    if posterior is not None and log_joint.total_size is not None:
        got, expected = f"a {type(log_joint).__name__}, which needs data", "a function of values"
        fix = "Write lambda values: posterior.log_joint(values, x)."
        raise DeclarationError(subject, expected, got, fix, code="not-a-density")
    scores = posterior or getattr(log_joint, "log_prob", None)
    function: Any = scores if callable(scores) else log_joint
    if not callable(function) or lacks_forward(function):
        is_module = isinstance(log_joint, nn.Module)
        raise DeclarationError(
            subject,
            "a function from a dict of values by site to their log density",
            f"a {type(log_joint).__name__}, which has no forward"
            if is_module
            else shorten(log_joint),
            "Write def log_joint(values): return latents.log_prior(values) + log_likelihood(...).",
            code="not-a-density",
        )
    return function  # type: ignore[no-any-return]


def log_joint_at(log_joint: LogJoint, values: Values, lead: torch.Size) -> Tensor:
    """The log density of values, found to have the shape `(*sample, *batch)`.

    Raises:
        ConstraintError: if it has another, or is no tensor.
    """
    score: object = log_joint(values)
    if not isinstance(score, Tensor) or score.shape != lead:
        raise ConstraintError(
            "log_joint",
            f"log densities of shape (*sample, *batch) = {tuple(lead)}",
            shorten(score),
            "Sum over data and events, over the last dimensions only: sum(-1). Let values "
            "broadcast over what stands in front: mu[..., None], not mu.",
            code="wrong-shape",
        )
    return score


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
        return log_joint_at(self.log_joint, values, log_det.shape) + log_det
