"""The files of an evaluation: what is in them, how they are written and read. Imports no jax."""
