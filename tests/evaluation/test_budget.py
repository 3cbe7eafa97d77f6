"""Lines of progress, and what a step costs."""

import math

from clead_jax.attacks.parse import attack_at
from clead_jax.evaluation.budget import Progress, lines, weight


def test_a_line_at_every_new_attack_and_now_and_then():
    said = []
    heard = lines(said.append, "model/", every_attack=True, every=1000.0)
    for left in (900, 800):
        heard(Progress("pgd", left, 1000, 12.0))
    heard(Progress("cw", 650, 1000, math.inf))
    assert said == [
        "model/pgd  900/1000 still correct (90.0%), at most 12 s left",
        "model/cw  650/1000 still correct (65.0%)",
    ]
    said.clear()
    heard = lines(said.append, "", every_attack=False, every=0.0)
    heard(Progress("cw", 500, 1000, 75.0))
    assert said == ["cw  500/1000 still correct (50.0%), at most 1 min 15 s left"]


def test_a_backward_pass_counts_twice():
    assert weight(attack_at("pgd", "linf", 0.1), 10) == 3 and weight(attack_at("square", "linf", 0.1), 10) == 1
