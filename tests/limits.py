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
