"""Tests of what reads and builds the distributions and transforms of torch."""
