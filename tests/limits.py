"""What upstream cannot do, by promise: each entry is asserted to still fail, for this reason."""

INDEXING = (
    "log_prob assigns through a boolean mask, which has no batching rule "
    "(pytorch/pytorch#92033, open)"
)
IN_PLACE = "torch's Wishart.rsample replaces singular draws in place, after they were used"

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
    "VonMises": "torch's rejection sampler loops on a tensor's value, a graph break",
    "Wishart-scale_tril": "torch's sampler branches on a tensor's value, a graph break",
    "Wishart-covariance": "torch's sampler branches on a tensor's value, a graph break",
    "Wishart-precision": "torch's sampler branches on a tensor's value, a graph break",
}
"""sample under torch.compile(fullgraph=True)."""
