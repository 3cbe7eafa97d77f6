"""The config: its fields and defaults, what may stand in them, its file, the command line. Imports no jax."""

from clead_jax.config.schema import base
from clead_jax.config.validate import *  # noqa: F403
from clead_jax.config.validate import preset

__all__ = ["base", "preset"]
