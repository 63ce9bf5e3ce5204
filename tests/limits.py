"""What upstream cannot do, by promise: each entry is asserted to still fail, for this reason."""

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
    "Wishart-covariance": BRANCHES,
    "Wishart-precision": BRANCHES,
}
"""sample under torch.compile(fullgraph=True)."""

FUNCTION = "torch's Dirichlet draws through an autograd.Function without a rule for transforms"
FILLED = "the sampler fills a new tensor in place, which vmap refuses for different randomness"
SCATTER = "the sampler scatters counts into a new tensor in place"
LOOPS = "the sampler branches on the values of its draws"

VMAP_SAMPLE = {
    **dict.fromkeys(("Beta", "Dirichlet", "LKJCholesky"), FUNCTION),
    **dict.fromkeys(
        (
            "Cauchy",
            "Exponential",
            "Geometric-logits",
            "Geometric-probs",
            "HalfCauchy",
            "Laplace",
            "LowRankMultivariateNormal",
            "MultivariateNormal-scale_tril",
            "MultivariateNormal-covariance",
            "MultivariateNormal-precision",
            "Pareto",
            "StudentT",
            "Weibull",
            "named shapes",
            "constant",
            "nested mixture",
            "nested batch",
            "conditional mixture",
        ),
        FILLED,
    ),
    **dict.fromkeys(("Multinomial-logits", "Multinomial-probs"), SCATTER),
    **dict.fromkeys(
        ("VonMises", "Wishart-scale_tril", "Wishart-covariance", "Wishart-precision"), LOOPS
    ),
}
"""sample under vmap(randomness="different"); plain torch refuses the same ones.

The supported ensemble of independent draws is `batch_shape=(10,)`.
"""

LIMITS = {
    "score": SCORE,
    "vmap": VMAP_LOG_PROB,
    "rsample": NO_PATHWISE_BACKWARD,
    "dtype": {"GeneralizedPareto": "torch's own compares with a float32 constant"},
}
"""The promises of `check_distribution` that upstream breaks, by promise and case."""
