"""The class engine: how a class body becomes a declaration."""
