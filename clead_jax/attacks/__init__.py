"""Attacks. Importing the room registers `fgsm`, `pgd`, `cw` and `cw_l2`.

    entry = ATTACKS["pgd"]
    x_adv = run(entry.value, forward, entry.info["objective"], x, labels, keys, entry.config(eps=4 / 255))

Another attack is another file: five functions in an `Iterative`, a config, and one `ATTACKS.register`.
"""

from clead_jax.attacks.combine import run, worst_of
from clead_jax.attacks.cw import CWL2Config, distance
from clead_jax.attacks.gradient import FGSMConfig, GradientConfig
from clead_jax.attacks.loop import Iterative, repeat
from clead_jax.attacks.objectives import OBJECTIVES, fooled

__all__ = [
    "OBJECTIVES",
    "CWL2Config",
    "FGSMConfig",
    "GradientConfig",
    "Iterative",
    "distance",
    "fooled",
    "repeat",
    "run",
    "worst_of",
]
