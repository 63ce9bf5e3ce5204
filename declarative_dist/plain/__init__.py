"""Torch's own objects: distributions and transforms read, taken apart, built; modules put back."""
