"""Sites of a joint distribution whose distribution depends on the draws of earlier sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from torch import nn
from torch.distributions import Distribution

from declarative_dist.errors import DeclarationError, is_count, shorten
from declarative_dist.fields.blueprint import Blueprint, as_shape
from declarative_dist.fields.derived import MethodField
from declarative_dist.fields.field import declaration_of

if TYPE_CHECKING:
    from declarative_dist.declaration.record import Declaration


class Site(MethodField):
    """A method from the values of earlier sites, and of other fields, to a distribution.

    On an instance it reads as the method.

    Args:
        function: the method.
        event_dim: the total number of event dimensions of its distribution; None for its own.
        shape: sizes and names of sizes of independent copies, in one event.
        vectorize: whether the method is written for one draw.
    """

    label = "a site"
    relation = "given"
    is_site = True
    is_drawn = True

    def __init__(
        self,
        function: Callable[..., Distribution],
        event_dim: int | None = None,
        shape: int | str | Sequence[int | str] = (),
        *,
        vectorize: bool = False,
    ) -> None:
        super().__init__(function, "site", vectorize=vectorize)
        self.event_dim = event_dim
        self.shape = as_shape(shape, "site(shape=)")

    def settle(self, owner: Declaration) -> None:
        if not owner.is_joint:
            kind, fix = owner.owner, f"Write class {owner.owner}(Joint)."
            expected = "a Joint around a site"
            raise owner.error(self.name, expected, kind, fix, code="misplaced-field")
        super().settle(owner)

    def bind(self, module: nn.Module, blueprint: Blueprint, values: Mapping[str, Any]) -> None:
        vars(module)["_starts"][self.name] = blueprint.named_shape(self)

    def value(self, module: nn.Module, values: Mapping[str, Any]) -> Callable[..., Distribution]:
        return partial(self.function, module)

    def advice(self, owner: str) -> str:
        return f"Write {owner}().condition({self.name}=...) to hold it at data."

    def render(self, module: nn.Module) -> str:
        event = "" if self.event_dim is None else f", event_dim={self.event_dim}"
        shape = f", shape={tuple(vars(module)['_starts'][self.name])}" if self.shape else ""
        return f"site {self.rule(module)}{event}{shape}"

    def __get__(self, instance: nn.Module | None, owner: type) -> Any:
        if instance is None:
            return self
        declaration_of(instance, self.name)
        return partial(self.function, instance)


@overload
def site(function: Callable[..., Distribution], /) -> Site: ...
@overload
def site(
    *,
    event_dim: int | None = None,
    shape: int | str | Sequence[int | str] = (),
    vectorize: bool = False,
) -> Callable[[Callable[..., Distribution]], Site]: ...
def site(
    function: Callable[..., Distribution] | None = None,
    /,
    *,
    event_dim: int | None = None,
    shape: int | str | Sequence[int | str] = (),
    vectorize: bool = False,
) -> Any:
    """Declare a site of a `Joint` whose distribution depends on earlier ones.

    The method takes self, then values by name: of sites declared above it, of shape
    `(*sample, *batch, *event)`, and of other fields. It returns a distribution whose batch
    shape broadcasts to `(*sample, *batch)`.

    Args:
        function: the method, where `@site` stands without arguments.
        event_dim: the total number of event dimensions of what the method returns: batch
            dimensions are reinterpreted until it holds.
        shape: sizes and names of sizes: the site is that many independent and identically
            distributed copies of what the method returns, in one event whose dimensions these
            are. A name becomes a keyword of the constructor.
        vectorize: whether the method is written for one draw, copy or context, whose values have
            shape `(*event)`: `torch.vmap` maps it over all that stand in front.

    Raises:
        DeclarationError: if it is not written like that.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Joint, site
        >>> class Schools(Joint):
        ...     mu = dd.Normal(0.0, 5.0)
        ...     tau = dd.HalfCauchy(5.0)
        ...     @site(shape=("school",))
        ...     def theta(self, mu, tau):
        ...         return dd.Normal(mu, tau)
        ...     @site(event_dim=1, vectorize=True)
        ...     def y(self, theta):
        ...         return dd.Normal(theta - theta.mean(), 1.0)
        >>> {name: tuple(x.shape) for name, x in Schools(school=8).sample((3,)).items()}
        {'mu': (3,), 'tau': (3,), 'theta': (3, 8), 'y': (3, 8)}
    """
    if event_dim is not None and not is_count(event_dim):
        raise DeclarationError("site(event_dim=)", "an int, 0 or above", shorten(event_dim))
    if function is None:
        count = None if event_dim is None else int(event_dim)
        return lambda method: Site(method, count, shape, vectorize=vectorize)
    return Site(function)
