"""A run: from its config to stages, weights, measurements and provenance. The only package that reads a config."""
