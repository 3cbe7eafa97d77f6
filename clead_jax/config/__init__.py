"""The config: its fields and defaults, what they may hold, its file, the command line. Imports no jax.

To read it all, start with `schema`. Presets (configs/*.py) use `base`, `preset` and the kinds of stages.
"""

from clead_jax.config.io import fields_then, portable, restore, save, saved_command, stage_fields
from clead_jax.config.schema import Config, Contrastive, Joint, Supervised, base, preset, stages_of, trained_stages
from clead_jax.config.sections import changed, flatten, nested
from clead_jax.config.upstream import UNLABELLED, distances, labelled_by, neighbours_of, origin, reference, teacher
from clead_jax.config.validate import nearest, validate

__all__ = ["Config", "Contrastive", "Joint", "Supervised", "base", "preset", "stages_of", "trained_stages"]
__all__ += ["fields_then", "origin", "portable", "reference", "restore", "save", "saved_command", "stage_fields"]
__all__ += ["UNLABELLED", "distances", "labelled_by", "neighbours_of", "teacher"]
__all__ += ["changed", "flatten", "nearest", "nested", "validate"]
