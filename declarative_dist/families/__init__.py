"""Declarative modules: plain ones, and live distributions."""
