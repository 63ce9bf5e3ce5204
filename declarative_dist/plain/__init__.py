"""Torch's own distributions and transforms: read, taken apart, built, drawn from."""
