"""What a curve over eps does with its attack."""

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax import config
from clead_jax.attacks import parse as arsenal
from clead_jax.evaluation.verify import Evaluator
from clead_jax.experiment import evaluate as measure


def test_every_radius_of_a_curve_counts_what_it_finds():
    attack = arsenal.evaluation_attack(config.base(), "pgd")
    images, labels = np.full((4, 2, 2, 1), 0.5, np.float32), np.zeros(4, np.int32)
    # class 0 wins by 0.15 at the image, and loses where the mean falls by more than 0.075
    forward = lambda v, x: jnp.stack([x.mean((1, 2, 3)) - 0.35, 0.5 - x.mean((1, 2, 3))], -1)
    broken = {}
    for eps in (0.05, 0.2):
        at = measure.at_radius(attack, eps)
        outcome = Evaluator(forward, 4).attack(None, images, labels, at, key=jax.random.key(0))
        broken[eps] = (~outcome.correct).sum()
    assert broken == {0.05: 0, 0.2: 4}
    assert at.cfg.step_size / at.cfg.eps == attack.cfg.step_size / attack.cfg.eps
