"""The check of a family of distributions, yours or ours."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn
from torch.distributions import Distribution

from declarative_dist.errors import DeclarationError, shorten
from declarative_dist.families.learnable import learnable
from declarative_dist.randomness import same_random_numbers
from declarative_dist.testing.distribution_promises import PROMISES, SLOW, FamilyTrial
from declarative_dist.testing.promise import BrokenPromiseError, check_promises, describe_error


def check_distribution(
    family: object,
    *context: Any,
    compile: bool = False,  # noqa: A002 - what torch calls it
    skip: Collection[str] = (),
    **given: Any,
) -> None:
    """Check that a family of distributions keeps what every declared one promises.

    The promises, by the names that `skip` takes:

    * `copies`, `call`: `copy.deepcopy` gives an independent copy; a call gives a distribution;
    * `parameters`: all of them exist from the start;
    * `shapes`: draws are `(*sample, *batch, *event)`, log densities `(*sample, *batch)`;
    * `support`: draws are in the support, and their log densities finite;
    * `score`: draws and densities belong together: the mean gradient of the log density over
      draws is zero (a support that depends on the parameters is the exception);
    * `snapshot`: every member agrees with the plain distribution of a call, also after a step;
    * `rsample`: where there is a reparametrised sampler, gradients flow through it;
    * `gradient`: a finite gradient that is not zero reaches every parameter;
    * `step`: a second `backward` works, and a step of an optimizer changes the log density;
    * `state`: a `state_dict` that was saved holds all there is, and loads;
    * `pickle`: it pickles after a `backward`;
    * `dtype`: everything moves to float64;
    * `meta`: everything moves to the meta device, and `reset_parameters` brings it all back;
    * `functional_call`, `vmap`: it works with the transforms of `torch.func`;
    * `compile`: if asked for, `torch.compile(fullgraph=True)` gives the same densities.

    Torch's random numbers and switches, and the family that you give, stay as they were.

    Args:
        family: an instance, or a class that needs no arguments, of `Variational`, `Joint`,
            `Conditional` or any module whose call gives a distribution. A plain distribution is
            made learnable first.
        *context: what a `Conditional` is called with.
        compile: whether to compile it too, which takes seconds.
        skip: names of promises that it does not make.
        **given: what a `Conditional` is given with the context.

    Raises:
        BrokenPromiseError: an AssertionError that says which promise is broken, by which
            parameter or value.
        DeclarationError: if it is no family, or a name in `skip` is no promise.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Param, Positive, Variational, derived
        >>> from declarative_dist.testing import check_distribution
        >>> class Stuck(Variational):
        ...     base = dd.Gamma
        ...     concentration = Param(2.0)
        ...     location = Param(4.0, Positive())
        ...     @derived
        ...     def rate(self, concentration, location):
        ...         return concentration / location.detach()
        >>> check_distribution(Stuck)
        Traceback (most recent call last):
        ...
        declarative_dist.testing.promise.BrokenPromiseError: 'gradient' is broken. \
Stuck.raw_location: expected a gradient from the log density, got none. Use it in the \
distribution without detach, item, data or numpy, or freeze it. \
(python -m declarative_dist.explain broken-promise)
    """
    __tracebackhide__ = True
    with same_random_numbers():
        trial = FamilyTrial(_module_of(family), context, given, frozenset(skip))
        promises = {**PROMISES, **SLOW} if compile else PROMISES
        check_promises(promises, trial, skip, "check_distribution")


def _module_of(family: Any) -> nn.Module:
    if isinstance(family, type) and issubclass(family, nn.Module):
        try:
            family = family()
        except Exception as error:
            expected, got = "a class that needs no arguments", describe_error(error)
            name = family.__name__
            raise BrokenPromiseError(name, expected, got, "Give an instance.") from error
    elif isinstance(family, Distribution) and not isinstance(family, nn.Module):
        family = learnable(family)
    if not isinstance(family, nn.Module):
        expected = "a module whose call gives a distribution"
        raise DeclarationError("check_distribution", expected, shorten(family))
    return family
