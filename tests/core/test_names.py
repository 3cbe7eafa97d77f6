"""Names as papers write them."""

import pytest

import clead_jax.attacks  # noqa: F401  registers the attacks
from clead_jax.core import names

ATTACKS = {
    "AutoAttack": "autoattack",
    "auto_attack(version=rand)": "autoattack(version=rand)",
    "AA": "autoattack",
    "PGD": "pgd",
    "PGD-20": "pgd(steps=20)",
    "PGD20": "pgd(steps=20)",
    "PGD-100(eps=4/255,norm=L2)": "pgd(steps=100,eps=4/255,norm=l2)",
    "APGD-CE": "apgd_ce",
    "APGD-T": "apgd_t",
    "APGD-DLR-50": "apgd_dlr(steps=50)",
    "FAB-T": "fab_t",
    "C&W": "cw",
    "CW-L2": "cw_l2",
    "C&W-L2": "cw_l2",
    "MI-FGSM": "mi_fgsm",
    "I-FGSM": "bim",
    "Square-500": "square(queries=500)",
    "pgd(steps=3)": "pgd(steps=3)",
    "cw_l2": "cw_l2",
    "clean": "clean",
    "AutoAttack-2": "AutoAttack-2",
    "DeepFool": "DeepFool",
}


@pytest.mark.parametrize("text", ATTACKS)
def test_attacks(text):
    assert names.attack(text) == ATTACKS[text]


NORMS = {"Linf": "linf", "L_inf": "linf", "L∞": "linf", "ℓ∞": "linf", "∞": "linf", float("inf"): "linf"}
NORMS |= {"L2": "l2", "l_2": "l2", "ℓ2": "l2", 2: "l2", "L1": "l1", 1: "l1", "l7": "l7", "linf": "linf"}


@pytest.mark.parametrize("text", NORMS, ids=str)
def test_norms(text):
    assert names.norm(text) == NORMS[text]
