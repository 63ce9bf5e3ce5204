"""Guides: distributions fitted to a posterior, their weighted draws and verdicts."""
