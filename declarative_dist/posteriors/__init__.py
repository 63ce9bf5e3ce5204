"""Posteriors: what is conditioned, and the guides that approximate it."""
