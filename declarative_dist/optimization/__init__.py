"""Minimisers of smooth functions: they know tensors and callables, and nothing of the library."""
