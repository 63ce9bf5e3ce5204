"""Variational objectives: bounds of the log evidence, as losses."""

from __future__ import annotations

from typing import Any

from declarative_dist.errors import ConstraintError, check_count
from declarative_dist.fields.kinds import predicted_kind
from declarative_dist.joints.joint import Joint
from declarative_dist.objectives.bound import VariationalBound


class NegativeELBO(VariationalBound):
    """The negative evidence lower bound, `-E_q[log p(z, data) - log q(z)]`, as a loss.

    Minimising it fits the guide `q` to the posterior, and what is learned in the target to the
    evidence (Jordan, Ghahramani, Jaakkola and Saul, 1999,
    https://doi.org/10.1023/A:1007665907178). It is the mean over draws, and the sum over the
    independent problems of a guide's `batch_shape`; where the guide is a `Conditional`, the mean
    over the batch of contexts, and the sum over dimensions that one prediction has of its own.

    The target takes draws of shape `(*sample, *batch, *event)`, or a dict of them, and returns
    log densities of shape `(*sample, *batch)`. It is one of

    * a distribution or a `Joint`: a plain distribution is a constant that moves with the
      objective, a live one trains;
    * `joint.condition(y=...)`, called with the dict of the other sites;
    * a `NegativeLogPosterior`, whose mode and whose posterior then come from one declaration: the
      trainable `Param`s of its module are the sites, and the batch is its data;
    * any module, or a method of one, called with `(sample, *batch)`; its parameters train;
    * a function of `(sample, *batch)`. What it refers to is not known here: modules in it are
      neither moved nor among `parameters()`.

    In a mini-batch the target scales the likelihood by itself: `len(all) / len(batch)`. Of latents
    with priors of their own, `latents.log_prior(values)` has those at the draws.

    A `Joint` with a context is a guide of local latents, whose sites each context has, and of
    global ones, which all of them share. With `total_size`, a batch stands for that many contexts:
    the loss is an unbiased estimate of their whole loss. What contexts add to the densities of
    guide and target is weighed by `total_size` over the size of the batch, and the rest counts
    once. So that both are known apart, the target is

    * a `Joint` with a context, too, called with the same batch; its own `Given`s and the data of
      its sites you give by keyword, `objective(x, error=s, y=y)`. Its local sites are those whose
      methods take something of the context, or an earlier local site;
    * or a function or module that returns two tensors: what counts once, of shape `(*sample)`, and
      what each context adds, the likelihood included, of shape `(*sample, *contexts)`.

    A `Conditional` receives the whole batch. One that looks at a part of it says so in its
    `forward`, as the encoder below does, or in its network's.

    Estimators: `"pathwise"` differentiates through draws; `"stl"` does so with the guide's
    parameters held in its density, and has no variance where the guide is exact; `"score"` needs
    no gradients of draws, and takes the mean of the other draws for a baseline, for which it needs
    `num_samples` of 2 or more: with one draw it has none. The last two are biased where the ends
    of the guide's support are learned, as a uniform's, and are refused there.

    Args:
        log_joint: the target, `log p(z, data)`, which need not be normalised.
        guide: a `Variational`, a `Joint`, a `Conditional`, or an automatic guide.
        num_samples: how many draws of the guide one call takes.
        estimator: `"pathwise"`, `"stl"` or `"score"`; None for `"stl"` if the guide is an
            automatic one, for the first if it has a reparametrised sampler, else for the last.
        vectorize: whether `log_joint` is written for one draw, of shape `(*batch, *event)`: it is
            mapped over draws with `torch.func.vmap`.
        total_size: for a guide that is a `Joint` with a context, how many contexts there are in
            all; None if a batch has all of them. `fit` asks for it.

    Raises:
        DeclarationError: if the target or the guide is nothing of the kind.
        ConstraintError: if the estimator does not suit the guide or its support, or the support
            of the target excludes it; in a call, if the target returns another shape.

    Example:
        >>> import torch, torch.distributions as dd
        >>> from declarative_dist import Conditional, Head, Positive, learnable
        >>> from declarative_dist.objectives import NegativeELBO
        >>> NegativeELBO(dd.Normal(0.0, 1.0), learnable(dd.Normal(0.0, 1.0)))().item()
        0.0
        >>> class Encoder(Conditional):
        ...     base = dd.Normal
        ...     event_dim = 1
        ...     loc = Head(shape=(2,))
        ...     scale = Head(Positive(), shape=(2,))
        ...     def forward(self, x, y):
        ...         return super().forward(x)
        >>> class Model(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.decoder = torch.nn.Linear(2, 3)
        ...     def forward(self, z, x, y):
        ...         prior = dd.Normal(0.0, 1.0).log_prob(z).sum(-1)
        ...         pixels = dd.Normal(self.decoder(z), 1.0).log_prob(x).sum(-1)
        ...         return prior + pixels + dd.Normal(z[..., 0], 1.0).log_prob(y)
        >>> objective = NegativeELBO(Model(), Encoder(in_features=3), num_samples=4)
        >>> objective(torch.zeros(5, 3), torch.zeros(5)).shape
        torch.Size([])

        A hierarchy in mini-batches, of groups with a mean `y` each:

        >>> from declarative_dist import Joint
        >>> class Local(Conditional):
        ...     base = dd.Normal
        ...     loc = Head()
        ...     scale = Head(Positive())
        >>> class Guide(Joint):
        ...     mu = learnable(dd.Normal(0.0, 1.0))
        ...     theta = Local
        >>> def log_joint(values, y):
        ...     mu, theta = values["mu"], values["theta"]
        ...     once = dd.Normal(0.0, 10.0).log_prob(mu)
        ...     each = dd.Normal(mu[:, None], 1.0).log_prob(theta)
        ...     return once, each + dd.Normal(theta, 0.5).log_prob(y[:, 0])
        >>> objective = NegativeELBO(log_joint, Guide(in_features=1), total_size=100_000)
        >>> objective(torch.zeros(256, 1)).shape
        torch.Size([])
    """

    def __init__(
        self,
        log_joint: Any,
        guide: Any,
        *,
        num_samples: int = 1,
        estimator: str | None = None,
        vectorize: bool = False,
        total_size: int | None = None,
    ) -> None:
        super().__init__(
            log_joint, guide, num_samples=num_samples, estimator=estimator, vectorize=vectorize
        )
        if total_size is None:
            return
        subject = f"{type(self).__name__}(total_size=)"
        self.total_size = check_count(subject, total_size)
        if not (isinstance(guide, Joint) and predicted_kind(guide) is not None):
            raise ConstraintError(
                subject,
                "a Joint with a context for a guide, some of whose sites each context has",
                f"a {type(guide).__name__}",
                "Leave it out; a function of (sample, *batch) can weigh its own terms.",
                code="unused-argument",
            )


class ImportanceWeightedELBO(VariationalBound):
    """The negative importance-weighted bound, `-E[log 1/K sum_k p(z_k, data) / q(z_k)]`.

    With K draws it lies between the evidence lower bound and the log evidence, and is tighter for
    more of them (Burda, Grosse and Salakhutdinov, 2016, https://arxiv.org/abs/1509.00519).
    Targets, guides and reductions are as in `NegativeELBO`; the mean over draws is inside the
    logarithm.

    Estimators: `"pathwise"`; `"stl"`, which for this bound is the doubly reparametrised gradient
    of Tucker et al. (2019), because sticking the landing alone would be biased; `"score"`, with
    the baseline of Mnih and Rezende (2016). The last two are refused where the ends of the guide's
    support are learned. `"stl"` evaluates the target once more, without gradients.

    Args:
        log_joint: the target, as for `NegativeELBO`.
        guide: as for `NegativeELBO`.
        num_samples: the number K of draws; with 1 it is the bound of `NegativeELBO`.
        estimator: `"pathwise"`, `"stl"` or `"score"`; None for `"stl"` if the guide is an
            automatic one, for the first if it has a reparametrised sampler, else for the last.
        vectorize: whether `log_joint` is written for one draw.

    Raises:
        DeclarationError: as for `NegativeELBO`.
        ConstraintError: as for `NegativeELBO`.

    Example:
        >>> import torch.distributions as dd
        >>> from declarative_dist import learnable
        >>> from declarative_dist.objectives import ImportanceWeightedELBO
        >>> guide = learnable(dd.Gamma(2.0, 1.0))
        >>> objective = ImportanceWeightedELBO(dd.Gamma(2.0, 1.0), guide, num_samples=8)
        >>> abs(objective().item())
        0.0
    """

    _is_weighted = True
