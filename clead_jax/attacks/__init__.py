"""Attacks. Importing the room registers all of them: `ATTACKS` lists their names.

    entry = ATTACKS["pgd"]
    x_adv = run(entry.value, forward, entry.info["objective"], x, labels, keys, entry.config(eps=4 / 255))

Another attack is another file: five functions in an `Iterative`, a config, and one `ATTACKS.register`.
"""

from clead_jax.attacks.apgd import APGDConfig, TargetedAPGDConfig
from clead_jax.attacks.cw_l2 import CWL2Config, distance
from clead_jax.attacks.fab import FABConfig, TargetedFABConfig
from clead_jax.attacks.loop import repeat
from clead_jax.attacks.mi_fgsm import BIMConfig, MIFGSMConfig
from clead_jax.attacks.noise import NoiseConfig
from clead_jax.attacks.objectives import OBJECTIVES, fooled
from clead_jax.attacks.pgd import FGSMConfig, GradientConfig
from clead_jax.attacks.run import run, worst_of
from clead_jax.attacks.square import SquareConfig
from clead_jax.core.types import Iterative

__all__ = [
    "OBJECTIVES",
    "APGDConfig",
    "BIMConfig",
    "CWL2Config",
    "FABConfig",
    "FGSMConfig",
    "GradientConfig",
    "Iterative",
    "MIFGSMConfig",
    "NoiseConfig",
    "SquareConfig",
    "TargetedAPGDConfig",
    "TargetedFABConfig",
    "distance",
    "fooled",
    "repeat",
    "run",
    "worst_of",
]
