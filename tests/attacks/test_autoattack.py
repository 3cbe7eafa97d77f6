"""The suites that AutoAttack stands for, and what few classes make of them."""

import jax
import numpy as np
import pytest

from clead_jax.attacks import autoattack
from clead_jax.core.types import NamedAttack


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 200])
@pytest.mark.parametrize("version", autoattack.VERSIONS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_attacks_of_every_version(version, norm, classes):
    attacks, notes = autoattack.autoattack(version, norm, 0.1, classes)
    assert [a.name for a in attacks] == list(autoattack.VERSIONS[version])
    for attack in attacks:
        assert isinstance(attack, NamedAttack) and attack.cfg.norm == norm and attack.cfg.eps == attack.radius == 0.1
        if attack.name in ("apgd_t", "fab_t"):
            assert attack.cfg.targets == min(5 if (attack.name, norm) == ("apgd_t", "l1") else 9, classes - 1)
        logits = jax.ShapeDtypeStruct((4, classes), np.float32)
        target = jax.ShapeDtypeStruct((4,), np.int32)
        jax.eval_shape(attack.objective, logits, target)  # DLR refuses too few classes
    assert bool(notes) == (classes < 3 or (classes < 10 and version != "rand"))


def test_the_standard_version_is_the_published_one():
    """Croce and Hein (arXiv 2003.01690), section 5: 100 steps, 9 targets, 5000 queries, restarts as in their code."""
    attacks, _ = autoattack.autoattack("standard", "linf", 8 / 255, 10)
    of = {named.name: named.cfg for named in attacks}
    assert list(of) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert (of["apgd_ce"].steps, of["apgd_ce"].restarts) == (100, 1)
    assert (of["apgd_t"].steps, of["apgd_t"].targets, of["fab_t"].steps, of["fab_t"].targets) == (100, 9, 100, 9)
    assert of["square"].queries == 5000 and autoattack.autoattack("rand", "linf", 0.1, 10)[0][0].cfg.eot == 20


@pytest.mark.parametrize("version", ["strong", "Standard"])
def test_an_unknown_version_is_named(version):
    with pytest.raises(ValueError, match=f"{version}.*standard"):
        autoattack.autoattack_version("autoattack", version)
