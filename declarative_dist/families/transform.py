"""Declared transforms: a module with the parameters of a torch transform."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from torch.distributions import IndependentTransform, Transform

from declarative_dist.errors import ConstraintError
from declarative_dist.families.building import build_by_method
from declarative_dist.families.declarative import Declarative
from declarative_dist.fields.alignment import line_up_all


class LearnableTransform(Declarative):
    """A transform declared as a class: its base, and a field per argument.

    The class body has a `base`, a `torch.distributions.Transform` class or a method from field
    values to a transform, and fields. An instance is a module, not a transform: calling it gives a
    plain, current one. As a nested part of a declared family, alone or in `transforms = [...]`, it
    is resolved afresh at every build. `event_dim` is the total number of event dimensions.

    Args:
        batch_shape: how many independent copies; prepended to the shape of every parameter.
        device: where to build it.
        dtype: the floating-point type of everything in it.
        **sizes_and_values: sizes by the names that shapes use, and values by field.

    Raises:
        DeclarationError: if a keyword is neither, or the class has no base.
        ConstraintError: if a value is outside its constraint or shapes do not fit.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import LearnableTransform, Param, Variational
        >>> class Shift(LearnableTransform):
        ...     base = dd.AffineTransform
        ...     loc = Param(1.0)
        ...     scale = 2.0
        >>> class Squashed(Variational):
        ...     base = dd.TransformedDistribution
        ...     base_distribution = dd.Normal(0.0, 1.0)
        ...     transforms = [Shift, dd.TanhTransform()]
        >>> q = Squashed()
        >>> [name for name, _ in q.named_parameters()], q.transforms[0]()
        (['transforms.0.raw_loc'], AffineTransform())
    """

    __framework__ = True
    __builds__: ClassVar[type | None] = Transform

    if TYPE_CHECKING:

        def __call__(self) -> Transform: ...

    def forward(self) -> Transform:
        """Build the current transform from the current values."""
        declaration = self.__declaration__
        values = declaration.base_values(self)
        line_up_all(values, self.__dict__["_alignment"])
        subject = f"{type(self).__name__}.base"
        make: Any = declaration.make or partial(declaration.base, self)
        transform = build_by_method(make, values, Transform, subject)
        if declaration.event_dim is None:
            return transform
        missing = declaration.event_dim - transform.domain.event_dim
        if missing < 0:
            subject, got = f"{type(self).__name__}.event_dim", str(declaration.event_dim)
            expected = f"{transform.domain.event_dim} (the base's own) or above"
            raise ConstraintError(subject, expected, got, "Raise event_dim.", code="wrong-shape")
        return IndependentTransform(transform, missing) if missing else transform

    def _check_build(self, values: dict[str, Any]) -> None:
        self.forward()

    def _build_apart(self) -> Transform | None:
        # A class lines its arguments up, so that their shapes differ; a method mixes or not.
        return self.forward() if self.__declaration__.make is None else None
