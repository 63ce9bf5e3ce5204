"""Automatic guides: a Gaussian over the flat unconstrained vector, pushed through constraints.

A guide moves in units of its own scale. With a centre `c` and a factor `A` that are held fixed, a
learned location `v` and a learned triangular factor `T` with a diagonal learned through its
logarithm, the unconstrained vector is `c + A (t v + T eps)`, where `eps` is standard normal and
`t` the lengths of the rows of `T`. So an optimizer's step of 0.01 is a hundredth of a standard
deviation whatever the units of the model, and where `A A^T` is near the posterior's covariance the
problem looks alike in all directions. `initialize_` and `fit` find such `c` and `A`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import Self

from declarative_dist.constraints.half_line import Exp, Real
from declarative_dist.constraints.matrix import LowerCholesky, unpack_lower
from declarative_dist.errors import DeclarationError, check_count, check_positive, shorten
from declarative_dist.families.comparison import COUNT
from declarative_dist.families.declarative import Declarative
from declarative_dist.families.probe import check_target
from declarative_dist.families.state import AtomicState
from declarative_dist.fields.sharding import is_shard, register_forward_pre_hook
from declarative_dist.joints.conditioned import Conditioned
from declarative_dist.joints.flat_sites import FlatSites
from declarative_dist.joints.joint import Joint
from declarative_dist.latents.density import UnconstrainedLogDensity
from declarative_dist.latents.flat import FlatMap
from declarative_dist.latents.flat_params import FlatParams
from declarative_dist.latents.named import NamedModule, Values
from declarative_dist.latents.pareto import FEWEST
from declarative_dist.latents.weighted import WeightedDraws
from declarative_dist.posteriors.gaussian import Gaussian
from declarative_dist.posteriors.modes import RESTARTS, SAME, Modes, find_modes
from declarative_dist.posteriors.pushed import PushedNormal
from declarative_dist.posteriors.sampling import (
    MOST_OF_A_FACTOR,
    Mixture,
    components_of,
    describe_losses,
    weigh,
)
from declarative_dist.posteriors.search import Density, bound_of

_EXP = Exp()
MOST_TO_BEGIN = 10_000
"""Above so many numbers a fit does not look for a start: 64 draws at once may be too many."""


class NormalGuide(AtomicState, NamedModule):
    """The shared part of Gaussian guides; of `MeanFieldNormal` and `FullRankNormal`.

    Args:
        latents: a declared module, whose trainable `Param`s are the sites, or a conditioned joint.
        init_scale: the starting standard deviation, for a joint in units of the prior's; None for
            0.1, and for a start found by `initialize_`.
        dtype: the floating-point type; None for the latents' own.
        device: where to build it; None for where the latents are.
    """

    is_diagonal: ClassVar[bool]
    __builds__: ClassVar[type] = PushedNormal
    register_forward_pre_hook = register_forward_pre_hook

    center: Tensor
    factor: Tensor

    def __init__(
        self,
        latents: Declarative | Conditioned,
        *,
        init_scale: float | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.flat = _flat_of(latents, name)
        self.modes: Modes | None = None
        self.is_searched = False  # whether `modes` has all that anybody wants to look for
        self._mixture: Mixture | None = None
        scale = 0.1 if init_scale is None else init_scale
        self._init_scale = check_positive(f"{name}(init_scale=)", scale)
        (start, factor), size = self._declared(), self.flat.size
        self.register_buffer("center", start)
        self.register_buffer("factor", factor)
        self.raw_loc = nn.Parameter(torch.zeros_like(start))
        self.raw_scale = nn.Parameter(torch.zeros_like(start))
        if not self.is_diagonal and size > 1:  # a parameter without numbers cannot be sharded
            triangle = start.new_zeros((*start.shape[:-1], size * (size - 1) // 2))
            self.raw_tril = nn.Parameter(triangle)
        self.to(device=device, dtype=dtype)
        self._awaits_density = init_scale is None and not isinstance(latents, Conditioned)
        if isinstance(latents, Conditioned) and init_scale is None:
            self.initialize_(latents)
        self._start = self.center.clone(), self.factor.clone()

    if TYPE_CHECKING:

        def __call__(self) -> PushedNormal: ...

    @property
    def batch_shape(self) -> torch.Size:
        """The shape of independent copies, as the latents have it."""
        return self.flat.batch_shape

    def forward(self) -> PushedNormal:
        """The current distribution, a snapshot for a whole step."""
        scale = _EXP.forward(self.raw_scale)
        if self.is_diagonal:
            scale = self.factor * scale
            return PushedNormal(self.flat, self.center + scale * self.raw_loc, scale)
        # A row of many entries must not move faster than one number does.
        size = self.raw_loc.shape[-1]
        packed = getattr(self, "raw_tril", self.raw_loc[..., :0]) / math.sqrt(size)
        lower = unpack_lower(torch.ones_like(self.raw_loc), packed)
        triangle = scale[..., None, :] * lower
        moved = triangle.norm(dim=-1) * self.raw_loc
        loc = self.center + (self.factor @ moved[..., None]).squeeze(-1)
        return PushedNormal(self.flat, loc, self.factor @ triangle)

    def detach(self) -> PushedNormal:
        """A snapshot with detached parameters: gradients flow to values, not to parameters.

        The density of "Sticking the landing" (Roeder, Wu and Duvenaud, 2017,
        https://arxiv.org/abs/1703.09194).
        """
        with torch.no_grad():
            return self()

    @property
    def median(self) -> Values:
        """The values at the mean vector, medians of sites mapped number by number; detached."""
        return self().median

    @property
    def supports(self) -> dict[str, Any]:
        """The set that the values of each site lie in."""
        return self().supports

    def unconstrained_log_density(self, log_joint: object) -> UnconstrainedLogDensity:
        """A log joint density as one of the vectors that the guide is a Gaussian over."""
        return UnconstrainedLogDensity(self.flat, log_joint)

    @property
    def awaits_density(self) -> bool:
        """Whether a fit may still look for a start, as nobody chose one by a scale or by training.

        False for a guide over a conditioned joint, which began with its own log density.
        """
        numbers = list(self.parameters(recurse=False))
        if not self._awaits_density or any(n.is_meta or is_shard(n) or n.any() for n in numbers):
            return False
        is_new = torch.equal(self.center, self._start[0].to(self.center))
        return is_new and self.flat.size <= MOST_TO_BEGIN

    def initialize_(
        self, log_joint: object, *, restarts: int = 0, tolerance: float = 1e-2
    ) -> Self:
        """Begin as the Gaussian nearest to a log joint density, in its units.

        Newton's method climbs the evidence lower bound on fixed draws, from where the guide is, so
        it can only gain. An optimizer of a fixed rate then meets a problem without units or
        correlations. `fit` does it by itself before the first step of a new guide; before a loop
        of your own, call it. Random numbers of everybody else stay as they were.

        Args:
            log_joint: from a dict of values of shape `(*sample, *batch, *event)` to log densities
                of shape `(*sample, *batch)`; a function, a conditioned joint or a module.
            restarts: from how many other starts to look for a better mode. What they led to is
                `guide.modes`, which `importance_sample` uses and a state does not keep.
            tolerance: the search is over where a cycle gains fewer nats than this.

        Returns:
            The guide itself; as it was, if no density is finite where it is.

        Raises:
            ConstraintError: if the log joint density has another shape.
        """
        modes = self._search(self._density_of(log_joint), restarts, tolerance)
        if modes.bounds[0].isfinite().all():
            self._become(modes.rows[0])
            self.modes, self.is_searched = modes, restarts > 0
        return self

    def _search(self, density: Density, restarts: int, tolerance: float) -> Modes:
        now = self.detach().gaussian.double()
        if self.flat.size > MOST_OF_A_FACTOR:
            now = Gaussian(now.loc, now.deviations)
        around = Gaussian(self.flat.start(), 0.1 * self.flat.spread()).double()
        around = around if now.is_diagonal else around.full()
        return find_modes(density, now, around, restarts=restarts, tolerance=tolerance)

    def importance_sample(self, log_joint: object, num_samples: int) -> WeightedDraws:
        """Draw near a posterior, with the weights that make up for the difference.

        Half of the draws come from the guide, half from a multivariate t distribution of 5
        degrees of freedom with its centre and factor, so that far tails are reached; other modes
        that may hold much are drawn from, too. `fit` without `steps` has looked for them. If you
        haven't fitted, it searches for modes itself, up to 400 numbers, which takes a while. Where
        weights are uneven, Gaussians join on a grid of the one or two numbers that shape the
        others, such as the scale of a hierarchy. Draws are scrambled Sobol points, and weights
        Pareto smoothed.

        Args:
            log_joint: as for `initialize_`.
            num_samples: how many draws to make, 25 or more.

        Returns:
            Draws with `weights`, `mean()`, `std()`, `quantile(p)` and a `verdict`.

        Raises:
            ConstraintError: if the log joint density has another shape.
            NonFiniteError: if no draw has a finite density.

        Example:
            >>> import torch, torch.distributions as dd
            >>> from declarative_dist import Declarative, FullRankNormal, Param, Positive
            >>> class Latents(Declarative):
            ...     rate = Param(2.0, Positive())
            >>> posterior = lambda values: dd.Gamma(3.0, 1.5).log_prob(values["rate"])
            >>> draws = FullRankNormal(Latents()).importance_sample(posterior, 4000)
            >>> bool((draws.mean()["rate"] - 2.0).abs() < 0.05)
            True
        """
        count = check_count("importance_sample(num_samples=)", num_samples, FEWEST)
        density = self._density_of(log_joint)
        now = self.detach().gaussian.double()
        bound = bound_of(density, now[None])[0]
        modes = self.modes
        is_known = (
            modes is not None
            and self.is_searched
            and abs(modes.lead_of(bound)) < SAME
            and modes.is_about(density)
        )
        if not is_known:
            is_small = self.flat.size <= MOST_OF_A_FACTOR
            modes = self._search(density, RESTARTS, 1e-2) if is_small else None
        components, doubts, notes = components_of(now, bound, modes)
        seed = int(torch.randint(2**31, ()))
        with torch.no_grad():
            if is_known and self._mixture is not None:  # it was good before
                vectors, log_weights = self._mixture.weigh(density, count, seed)
            else:
                vectors, log_weights, self._mixture = weigh(density, components, count, seed)
            values = self.flat(vectors.to(self.center.dtype))
        doubts += describe_losses(density, vectors, values, log_weights)
        return WeightedDraws(values, log_weights, doubts=doubts, notes=notes, dims=self.flat.dims)

    def _density_of(self, log_joint: object) -> Density:
        """A log joint density as one of vectors in float64; refused if it mixes draws."""
        density, dtype = self.unconstrained_log_density(log_joint), self.center.dtype

        def begin() -> Density:
            start = self.flat.start()
            vectors = start + 0.1 * self.flat.spread() * torch.randn(COUNT, *start.shape).to(start)
            return lambda rows: density(vectors[rows])

        check_target(begin, density, type(self).__name__)
        return lambda vectors: density(vectors.to(dtype))

    def _become(self, found: Gaussian) -> None:
        with torch.no_grad():
            has_factor = found.is_diagonal and not self.is_diagonal
            self.center.copy_(found.loc)
            self.factor.copy_(found.scale.diag_embed() if has_factor else found.scale)
            self._to_origin()

    def reset_parameters(self) -> None:
        """Go back to the starting values, as if the guide were new.

        After `to_empty` this fills a guide that was on the meta device, or its latents were.
        """
        with torch.no_grad():
            self.flat.reset()
            if self._start[0].is_meta and not self.center.is_meta:
                self._start = self._declared()
            for buffer, start in zip((self.center, self.factor), self._start, strict=True):
                buffer.copy_(start)
            self._to_origin()

    def _declared(self) -> tuple[Tensor, Tensor]:
        """The centre and the factor that a new guide has."""
        spread = self.flat.spread() * self._init_scale
        return self.flat.start(), spread if self.is_diagonal else spread.diag_embed()

    def _to_origin(self) -> None:
        self.modes, self.is_searched, self._mixture = None, False, None
        for parameter in self.parameters(recurse=False):
            parameter.zero_()

    def _check_numbers(self, name: str, loaded: Tensor, now: Tensor, subject: str) -> None:
        if loaded.shape == now.shape:  # else torch says so
            scales = Exp(guard=False) if self.is_diagonal else LowerCholesky(guard=False)
            (scales if name == "factor" else Real()).check(loaded, subject)

    def extra_repr(self) -> str:
        """The sites with the shapes of their values."""
        return self.flat.extra_repr()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


class MeanFieldNormal(NormalGuide):
    """A guide of independent Gaussians over the unconstrained numbers of latent variables.

    Values are their images under the constraints, so every draw lies inside its support;
    `log_prob` has the log of the volume change. Draws are dicts of tensors of shape
    `(*sample, *batch, *event)` by site. Calling it gives a snapshot for a whole step.
    Automatic differentiation variational inference of Kucukelbir, Tran, Ranganath, Gelman and
    Blei, JMLR 18, 2017, https://arxiv.org/abs/1603.00788.

    It starts around the declared values, or near a mode of a conditioned joint. For a declared
    module `fit` looks for such a place before its first step, unless `init_scale` is given; in a
    loop of your own `initialize_(log_joint)` finds it, which badly scaled posteriors need. It is
    fitted by `NegativeELBO(log_joint, guide)`; in `log_joint(values)`, priors that were declared
    are `latents.log_prior(values)`.

    Args:
        latents: a declared module, whose trainable `Param`s are the sites, or a conditioned joint.
        init_scale: the starting standard deviation, for a joint in units of the prior's; None for
            0.1, and for a start found by `initialize_`.
        dtype: the floating-point type; None for the latents' own.
        device: where to build it; None for where the latents are.

    Raises:
        DeclarationError: if the latents are neither, there is none, or one is discrete.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Declarative, MeanFieldNormal, Param, Positive, Simplex
        >>> class Latents(Declarative):
        ...     rate = Param(2.0, Positive())
        ...     weights = Param([0.2, 0.3, 0.5], Simplex())
        >>> guide = MeanFieldNormal(Latents())
        >>> draw = guide.sample((4,))
        >>> draw["weights"].shape, guide.log_prob(draw).shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    is_diagonal = True


class FullRankNormal(NormalGuide):
    """A guide that is one Gaussian over all unconstrained numbers of latent variables.

    As `MeanFieldNormal`, with a covariance of all numbers: the factor of its covariance has a
    positive diagonal, learned through logarithms, times a unit lower triangle.

    Args:
        latents: a declared module, whose trainable `Param`s are the sites, or a conditioned joint.
        init_scale: the starting standard deviation, for a joint in units of the prior's; None for
            0.1, and for a start found by `initialize_`.
        dtype: the floating-point type; None for the latents' own.
        device: where to build it; None for where the latents are.

    Raises:
        DeclarationError: if the latents are neither, there is none, or one is discrete.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import FullRankNormal, Joint, site
        >>> class Line(Joint):
        ...     x = torch.tensor([-1.0, 0.0, 1.0])
        ...     slope = dd.Normal(0.0, 10.0)
        ...     noise = dd.HalfNormal(1.0)
        ...     @site(event_dim=1)
        ...     def y(self, slope, noise, x):
        ...         return dd.Normal(slope[..., None] * x, noise[..., None])
        >>> posterior = Line().condition(y=[-2.0, 0.1, 1.9])
        >>> guide = FullRankNormal(posterior)
        >>> 1.8 < guide.median["slope"].item() < 2.1
        True
    """

    is_diagonal = False


def _flat_of(latents: object, owner: str) -> FlatMap:
    """The map of latent variables to one vector.

    Raises:
        DeclarationError: if they are neither a declared module nor a conditioned joint.
    """
    if isinstance(latents, Conditioned):
        return FlatSites(latents)
    if isinstance(latents, Joint):
        return latents.unconstrained_log_density().flat  # refused
    if isinstance(latents, Declarative):
        return FlatParams(latents, owns=True)
    expected = "an instance of a Declarative class, or a conditioned joint"
    fix = "Declare class Latents(Declarative) with a Param for each variable, and write Latents()."
    raise DeclarationError(f"{owner}(latents)", expected, shorten(latents), fix,
                           code="not-a-density")  # fmt: skip
