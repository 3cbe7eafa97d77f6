"""The announced cost of every registered attack against counted calls of the model."""

import attack_problems
import jax
import pytest

from clead_jax.attacks.parse import named_attack
from clead_jax.core import spec
from clead_jax.core.registry import ATTACKS

CLASSES = 5
CASES = (
    "fgsm",
    "fgsm(keep=best)",
    "bim(steps=3)",
    "bim(steps=3,norm=l2)",
    "pgd(steps=3)",
    "pgd(steps=3,keep=last)",
    "pgd(steps=2,restarts=3,norm=l1)",
    "pgd(steps=3,objective=margin)",
    "cw(steps=3,random_start=false)",
    "mi_fgsm(steps=3)",
    "apgd_ce(steps=3)",
    "apgd_ce(steps=3,eot=3)",
    "apgd_ce(steps=3,norm=l1,widen=true)",
    "apgd_dlr(steps=2,restarts=2,norm=l2)",
    "apgd_t(steps=2,targets=3)",
    "apgd_t(steps=2,targets=2,restarts=2,eot=2)",
    "fab(steps=2)",
    "fab(steps=2,restarts=2,norm=l1)",
    "fab_t(steps=2,targets=3)",
    "fab_t(steps=2,targets=9,restarts=2,norm=l2)",
    "cw_l2(steps=3,rounds=2)",
    "square(queries=5)",
    "square(queries=5,norm=l2)",
    "noise(points=4)",
    "pma(steps=3)",
    "mm(steps=2,targets=3)",  # as many candidates as classes, and no more: in order of their distance
    "mm(steps=2,targets=2,candidates=3,norm=l2)",
    "mm(steps=2,targets=4)",  # every class: the order costs nothing
    "mm(steps=2,targets=2,candidates=0)",
    "fmn(steps=3)",
    "fmn(steps=3,targets=0,norm=l2)",
    "ddn(steps=3)",
    "training_pgd(steps=3)",
)


def counted(named, classes=CLASSES):
    """(forward, backward) calls of the model in a whole attack, traced step by step: one call is a pass per example."""
    problem, calls = attack_problems.linear(classes, batch=4), {"forward": 0, "backward": 0}

    @jax.custom_vjp
    def forward(x):
        calls["forward"] += 1
        return problem.forward(x)

    def first(x):
        return forward(x), None

    def back(_, cotangent):
        calls["backward"] += 1
        return ((cotangent @ problem.weights.T).reshape(problem.x.shape),)

    forward.defvjp(first, back)

    def whole(cfg):
        state = named.attack.init(forward, named.objective, problem.x, problem.labels, problem.keys, cfg)
        for _ in range(named.attack.num_steps(named.cfg)):
            state = named.attack.step(forward, named.objective, state, cfg)
        return named.attack.result(state)

    jax.eval_shape(whole, named.cfg)
    return calls["forward"], calls["backward"]


def attack(text):
    return named_attack(text, {"eps": 8 / 255}, {})


def test_every_attack_has_a_case():
    assert {spec.parse(text)[0] for text in CASES} == set(ATTACKS)


@pytest.mark.parametrize("text", CASES)
def test_the_announced_passes_are_those_made(text):
    assert attack(text).passes(CLASSES) == counted(attack(text))


@pytest.mark.parametrize("classes", [2, 7])
def test_fab_differentiates_every_class(classes):
    assert attack("fab(steps=2)").passes(classes) == counted(attack("fab(steps=2)"), classes) == (10, 5 * classes)


def test_by_hand():
    """Attacks that were announced by their steps alone: 103 for fab, 101 for apgd_ce(eot=3)."""
    assert attack("fab").passes(10) == (206, 1030)
    assert attack("apgd_ce(eot=3)").passes(10) == (303, 303)
    assert attack("apgd_t").passes(10) == (1 + 909, 909)
