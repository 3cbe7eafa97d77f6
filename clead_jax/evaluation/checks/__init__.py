"""Sanity checks of a model, its attack and its results."""
