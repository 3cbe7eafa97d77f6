"""The deterministic attacks against what PyTorch implementations gave on the same nets and images."""

import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import CWL2Config, FGSMConfig, GradientConfig, distance, fooled
from clead_jax.attacks.cw_l2 import CW_L2
from clead_jax.attacks.objectives import OBJECTIVES, cross_entropy, margin
from clead_jax.attacks.pgd import GRADIENT

N = 128


@pytest.fixture(scope="module", params=["robust", "clean"])
def reference(request, shared):
    path = shared / "parity" / f"{request.param}.npz"
    if not path.exists():
        pytest.skip(f"no reference results at {path}")
    return dict(np.load(path))


def follow(reference, attack, objective, cfg, n=N):
    """The states after each step, driven from the host, on the first n images."""
    forward = attack_problems.reference_net(reference)
    x, labels = jnp.asarray(reference["images"][:n], jnp.float32) / 255, jnp.asarray(reference["labels"][:n], jnp.int32)
    keys = jax.random.split(jax.random.key(0), n)
    state = attack.init(forward, objective, x, labels, keys, cfg)
    step = jax.jit(lambda state: attack.step(forward, objective, state, cfg))
    for _ in range(attack.num_steps(cfg)):
        state = step(state)
        yield state


def still_correct(reference, x_adv):
    labels = jnp.asarray(reference["labels"][: len(x_adv)], jnp.int32)
    return ~np.asarray(fooled(attack_problems.reference_net(reference)(x_adv), labels))


def test_the_net_is_the_same(reference):
    logits = attack_problems.reference_net(reference)(jnp.asarray(reference["images"][:N], jnp.float32) / 255)
    np.testing.assert_allclose(logits, reference["logits"][:N], atol=1e-4)


def test_fgsm(reference):
    (state,) = follow(reference, GRADIENT, cross_entropy, FGSMConfig())
    np.testing.assert_array_equal(still_correct(reference, GRADIENT.result(state)), reference["fgsm/correct"][:N])


@pytest.mark.parametrize(("trace", "objective"), [("pgd20_ce", "cross_entropy"), ("pgd20_margin", "margin")])
def test_pgd_follows_the_trace(reference, trace, objective):
    cfg = GradientConfig(random_start=False, keep="last")
    states = list(follow(reference, GRADIENT, OBJECTIVES[objective], cfg))
    evaluate = jax.jit(lambda x: OBJECTIVES[objective](attack_problems.reference_net(reference)(x), states[0].target))
    losses = np.stack([evaluate(state.x_adv) for state in states])
    expected = reference[f"{trace}/loss_per_step"][:, :N]
    # A gradient near 0 may have the other sign in another framework; from there on the two traces of that image part.
    np.testing.assert_allclose(losses[:3], expected[:3], atol=2e-3)
    assert np.quantile(np.abs(losses - expected), 0.95) < 1e-4
    for made, images in zip((1, 2, 5, 10, 20), reference[f"{trace}/first8_after_1_2_5_10_20"], strict=True):
        assert np.mean(np.abs(states[made - 1].x_adv[:8] - images) < 1e-5) > 0.98, made
    np.testing.assert_array_equal(still_correct(reference, states[-1].x_adv), reference[f"{trace}/correct"][:N])


@pytest.mark.slow
def test_cw_l2_finds_images_as_near_as_foolbox_does(reference):
    """With a fifth of foolbox's steps; misclassified images are at distance 0 and left out."""
    (*_, state) = follow(reference, CW_L2, margin, CWL2Config(steps=200), n=32)
    expected, clean = reference["cw_l2_foolbox_first32/distance"], reference["clean"][:32]
    found = np.asarray(distance(state.x, CW_L2.result(state)))
    assert not still_correct(reference, CW_L2.result(state)).any()
    assert np.median(found[clean] / expected[clean]) < 1.03
    assert np.median(found[clean]) < 1.03 * np.median(expected[clean])
