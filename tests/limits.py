"""What upstream cannot do, by promise: each entry is asserted to still fail, for this reason."""

from __future__ import annotations

import torch

INDEXING = (
    "log_prob assigns through a boolean mask, which has no batching rule "
    "(pytorch/pytorch#92033, open)"
)
IN_PLACE = (
    "Wishart.rsample takes every draw for singular and replaces it in place, after it was used "
    "(pytorch/pytorch#122021, open)"
)
BRANCHES = "Wishart.rsample branches on the values of its draws (pytorch/pytorch#122021, open)"

MOVES = "the support depends on a parameter"
ONION = (
    "for 3 dimensions or more torch draws rows with offset + 1/2 in place of (offset + 1) / 2 in "
    "their beta distribution, so that a correlation varies by 0.30 in place of 0.25 "
    "(the disagreement seen in pytorch/pytorch#69281)"
)

SCORE = {
    **dict.fromkeys(("GeneralizedPareto", "Pareto", "Uniform", "bounds"), MOVES),
    "LKJCholesky": ONION,
}
"""The mean gradient of log_prob over draws is not zero."""

VMAP_LOG_PROB = {
    "Geometric-logits": INDEXING,
    "Geometric-probs": INDEXING,
    "Multinomial-logits": INDEXING,
    "Multinomial-probs": INDEXING,
}
"""log_prob under vmap."""

NO_PATHWISE_BACKWARD = {
    "Wishart-scale_tril": IN_PLACE,
    "Wishart-covariance": IN_PLACE,
    "Wishart-precision": IN_PLACE,
}
"""backward through rsample."""

COMPILE_SAMPLE = {
    "VonMises": "the rejection sampler loops on values (pytorch/pytorch#194764, open)",
    "Wishart-scale_tril": BRANCHES,
}
"""sample under torch.compile(fullgraph=True)."""

VMAP_SAMPLE = dict.fromkeys(
    ("named shapes", "constant", "nested mixture", "nested batch", "conditional mixture"),
    "the sampler fills a new tensor in place, which vmap refuses for different randomness",
)
"""sample under vmap(randomness="different"); plain torch refuses the same ones.

The supported ensemble of independent draws is `batch_shape=(10,)`.
"""

SINGULAR = "draws with few degrees of freedom are singular, which the density refuses"
UNDERFLOW = "draws underflow to exactly 0, or overflow, which has no log density"
CHANCE = "gradients of draws divide by what has underflowed"
COUNTS = "counts leave the dtype"
ROUNDED = "draws are rounded onto the ends of the support"
NARROW = "a user's own GreaterThan lets the upper end be one unit in the last place above"
OTHERS = "a draw of one component is so far from a narrow one that this density is -inf"
FLOAT32 = "torch's log_prob compares with a float32 constant and refuses float64"
SOLVED = "solving with a factor whose rows are parallel up to rounding multiplies their ratios"

SINGLE, DOUBLE = (torch.float32,), (torch.float64,)
BOTH = (torch.float32, torch.float64)
EXTREME = {
    **dict.fromkeys(
        ("Wishart-scale_tril", "Wishart-covariance", "Wishart-precision"), (BOTH, SINGULAR)
    ),
    **dict.fromkeys(
        ("RelaxedOneHotCategorical", "RelaxedOneHotCategorical-probs"), (BOTH, UNDERFLOW)
    ),
    **dict.fromkeys(("InverseGamma", "Pareto", "StudentT", "FisherSnedecor"), (BOTH, UNDERFLOW)),
    **dict.fromkeys(("LogNormal", "LogisticNormal", "Kumaraswamy"), (BOTH, UNDERFLOW)),
    **dict.fromkeys(("Beta", "Dirichlet", "Gamma", "Independent"), (BOTH, CHANCE)),
    "Chi2": (DOUBLE, CHANCE),
    "Weibull": (BOTH, UNDERFLOW),
    "NegativeBinomial-logits": (BOTH, COUNTS),
    "NegativeBinomial-probs": (DOUBLE, COUNTS),
    "Geometric-probs": (BOTH, COUNTS),
    "Geometric-logits": (SINGLE, COUNTS),
    "Poisson": (DOUBLE, COUNTS),
    "GeneralizedPareto": (BOTH, f"{ROUNDED}; in float64 {FLOAT32}"),
    "Uniform": (BOTH, ROUNDED),
    "TransformedDistribution": (BOTH, ROUNDED),
    "MixtureSameFamily": (BOTH, OTHERS),
    "bounds": (BOTH, NARROW),
    "MultivariateNormal-scale_tril": (SINGLE, SOLVED),
}
"""At extreme parameters the log density of own draws, or its gradient, is not finite."""
LIMITS = {
    "score": SCORE,
    "vmap": VMAP_LOG_PROB,
    "rsample": NO_PATHWISE_BACKWARD,
    "dtype": {"GeneralizedPareto": "torch's own compares with a float32 constant"},
}
"""The promises of `check_distribution` that upstream breaks, by promise and case."""

NOT_DIFFERENTIABLE = {"GeneralizedPareto": FLOAT32}
"""Torch's own gradient of log_prob is not that of finite differences."""
