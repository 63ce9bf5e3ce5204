"""Regressions, with flat priors and with normal ones."""

from __future__ import annotations

import torch
import torch.distributions as dd
from torch import Tensor

from declarative_dist import Declarative, Joint, Param, Positive, site
from posteriors.posterior import Posterior, Values, data_of, reference_of


class Regression(Declarative):
    """`y ~ normal(x beta, sigma)`; what has no prior is flat."""

    beta = Param(0.0, shape=("features",))
    sigma = Param(1.0, Positive())

    x: Tensor
    y: Tensor

    def log_joint(self, values: Values) -> Tensor:
        """The log posterior density of values, of shape `(*sample)`."""
        noise = dd.Normal(values["beta"] @ self.x.mT, values["sigma"][..., None])
        return self.log_prior(values) + noise.log_prob(self.y).sum(-1)


def _with_intercept(*columns: Tensor) -> Tensor:
    return torch.stack([torch.ones_like(columns[0]), *columns], -1)


EARNINGS = data_of("earnings-logearn_interaction")


class Earnings(Regression):
    """Earnings by height and sex."""

    x = _with_intercept(
        EARNINGS["height"], EARNINGS["male"], EARNINGS["height"] * EARNINGS["male"]
    )
    y = EARNINGS["earn"].log()


KIDS = data_of("kidiq-kidscore_momiq")


class KidScore(Regression):
    """Test scores of children by the intelligence of their mothers."""

    x = _with_intercept(KIDS["mom_iq"])
    y = KIDS["kid_score"]
    sigma = Param(1.0, Positive(), prior=dd.HalfCauchy(2.5))


BUSHES = data_of("mesquite-mesquite")


class Mesquite(Regression):
    """The weight of mesquite bushes by their measures."""

    x = _with_intercept(
        *(
            BUSHES[name]
            for name in ("diam1", "diam2", "canopy_height", "total_height", "density", "group")
        )
    )
    y = BUSHES["weight"]


VOTERS = data_of("nes2000-nes")


class Election(Regression):
    """Which party people feel close to."""

    x = _with_intercept(
        VOTERS["real_ideo"],
        VOTERS["race_adj"],
        *((VOTERS["age_discrete"] == age).double() for age in (2, 3, 4)),
        VOTERS["educ1"],
        VOTERS["gender"],
        VOTERS["income"],
    )
    y = VOTERS["partyid7"]


SUMMERS = data_of("kilpisjarvi_mod-kilpisjarvi")


class Summer(Declarative):
    """The trend of summer temperatures in Kilpisjärvi; years are not centred."""

    x, y = SUMMERS["x"], SUMMERS["y"]
    alpha = Param(0.0, prior=dd.Normal(SUMMERS["pmualpha"], SUMMERS["psalpha"]))
    beta = Param(0.0, prior=dd.Normal(SUMMERS["pmubeta"], SUMMERS["psbeta"]))
    sigma = Param(1.0, Positive())

    def log_joint(self, values: Values) -> Tensor:
        """The log posterior density of values, of shape `(*sample)`."""
        alpha, beta, sigma = (values[name][..., None] for name in ("alpha", "beta", "sigma"))
        noise = dd.Normal(alpha + beta * self.x, sigma)
        return self.log_prior(values) + noise.log_prob(self.y).sum(-1)


PLANE = data_of("sblri-blr")


class Plane(Joint):
    """A regression in which every coefficient is one."""

    x = PLANE["X"]
    beta = dd.Independent(dd.Normal(torch.zeros(PLANE["D"]), 10.0), 1)
    sigma = dd.HalfNormal(10.0)

    @site(event_dim=1)
    def y(self, beta: Tensor, sigma: Tensor, x: Tensor) -> dd.Normal:
        """The measurements."""
        return dd.Normal(beta @ x.mT, sigma[..., None])


def regressions() -> list[Posterior]:
    """The posteriors of this file."""
    found = []
    for name, kind, features in (
        ("earnings-logearn_interaction", Earnings, 4),
        ("kidiq-kidscore_momiq", KidScore, 2),
        ("mesquite-mesquite", Mesquite, 7),
        ("nes2000-nes", Election, 9),
    ):
        model = kind(features=features, dtype=torch.float64)
        found.append(Posterior(name, model, model.log_joint, reference_of(name)))
    summer = Summer(dtype=torch.float64)
    name = "kilpisjarvi_mod-kilpisjarvi"
    found.append(Posterior(name, summer, summer.log_joint, reference_of(name)))
    plane = Plane(dtype=torch.float64).condition(y=PLANE["y"])
    found.append(Posterior("sblri-blr", plane, plane, reference_of("sblri-blr")))
    return found
