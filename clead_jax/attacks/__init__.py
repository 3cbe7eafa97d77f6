"""Attacks. Importing the package registers all of them: `ATTACKS` lists their names.

    entry = ATTACKS["pgd"]
    x_adv = run(entry.value, forward, entry.info["objective"], x, labels, keys, entry.config(eps=4 / 255))

Read `pgd` first, then `norms` and `objectives` (geometry and what is maximised), `run` (a whole attack as one program)
and `parse` (an attack from its text). The others have the same form; `autoattack` lists the suites.
"""

from clead_jax.attacks.apgd import APGDConfig, TargetedAPGDConfig
from clead_jax.attacks.cw_l2 import CWL2Config, distance
from clead_jax.attacks.ddn import DDNConfig
from clead_jax.attacks.fab import FABConfig, TargetedFABConfig
from clead_jax.attacks.fmn import FMNConfig
from clead_jax.attacks.mi_fgsm import MIFGSMConfig
from clead_jax.attacks.mm import MMConfig
from clead_jax.attacks.noise import NoiseConfig
from clead_jax.attacks.objectives import OBJECTIVES, fooled
from clead_jax.attacks.pgd import BIMConfig, FGSMConfig, GradientConfig
from clead_jax.attacks.run import repeat, run, worst_of
from clead_jax.attacks.square import SquareConfig
from clead_jax.attacks.training_pgd import TrainingPGDConfig
from clead_jax.core.types import Iterative

__all__ = [
    "OBJECTIVES",
    "APGDConfig",
    "BIMConfig",
    "CWL2Config",
    "DDNConfig",
    "FABConfig",
    "FGSMConfig",
    "FMNConfig",
    "GradientConfig",
    "Iterative",
    "MIFGSMConfig",
    "MMConfig",
    "NoiseConfig",
    "SquareConfig",
    "TargetedAPGDConfig",
    "TargetedFABConfig",
    "TrainingPGDConfig",
    "distance",
    "fooled",
    "repeat",
    "run",
    "worst_of",
]
