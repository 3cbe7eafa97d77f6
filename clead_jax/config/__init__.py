"""The config: its fields and defaults, what they may hold, its file, the command line. Imports no jax.

To read it all, start with `schema`. Presets (configs/*.py) use `base`, `preset` and the kinds of stages.
"""

from clead_jax.config.io import (
    FILE_SOURCES,
    changed,
    fields_then,
    origin,
    portable,
    preset,
    reference,
    restore,
    save,
    saved_command,
    stage_fields,
    trained_stages,
)
from clead_jax.config.schema import Config, Contrastive, Joint, Stage, Supervised, base, stages_of
from clead_jax.config.sections import Section, flatten
from clead_jax.config.validate import PROTOCOLS, nearest, validate

__all__ = [
    "FILE_SOURCES",
    "PROTOCOLS",
    "Config",
    "Contrastive",
    "Joint",
    "Section",
    "Stage",
    "Supervised",
    "base",
    "changed",
    "fields_then",
    "flatten",
    "nearest",
    "origin",
    "portable",
    "preset",
    "reference",
    "restore",
    "save",
    "saved_command",
    "stage_fields",
    "stages_of",
    "trained_stages",
    "validate",
]
