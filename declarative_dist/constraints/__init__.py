"""Constraints: which values a parameter may take, and the smooth maps that keep it there."""
