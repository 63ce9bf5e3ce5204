"""Posteriors of posteriordb as declarations, beside their reference draws.

`data.json` has the data, and the mean and the standard deviation of every quantity over 10,000
reference draws, of 15 posteriors of posteriordb (Magnusson and others, 2025, "posteriordb:
testing, benchmarking and developing Bayesian inference algorithms"). Models are written in Stan's
parametrisation: a normal has a mean and a standard deviation, a gamma a shape and a rate.
"""
