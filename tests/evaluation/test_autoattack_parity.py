"""AutoAttack standard against what the authors' PyTorch code left correct, on the same nets and images."""

import attack_nets
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.audit import audit


@pytest.mark.slow
@pytest.mark.parametrize("norm, eps", [("linf", "8/255"), ("l2", "0.5")])
@pytest.mark.parametrize("net", ["robust", "clean"])
def test_leaves_what_the_reference_leaves(shared, net, norm, eps):
    with np.load(shared / f"parity/{net}.npz") as stored:
        reference = dict(stored)
    weights = {k.split("/")[1]: jnp.asarray(v) for k, v in reference.items() if k.startswith("net/")}
    result = audit(
        attack_nets.convolutions,
        reference["images"],
        reference["labels"].astype(int),
        norm,
        eps,
        variables=weights,
        checks=False,
        say=print,
    )
    mine, theirs = result.correct["autoattack"], reference[f"autoattack_standard_{norm}/correct"]
    print(net, norm, "correct", mine.sum(), "reference", theirs.sum(), "agreement", (mine == theirs).mean())
    assert mine.sum() <= theirs.sum() + 1
    assert (mine == theirs).mean() >= 0.985
