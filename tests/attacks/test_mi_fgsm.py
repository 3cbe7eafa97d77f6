import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import BIMConfig, GradientConfig, MIFGSMConfig, NoiseConfig, norms, run
from clead_jax.attacks.objectives import margin
from clead_jax.attacks.pgd import GRADIENT
from clead_jax.core.registry import ATTACKS

MI_FGSM, NOISE = ATTACKS["mi_fgsm"].value, ATTACKS["noise"].value


def attack(attack, problem, cfg):
    solve = lambda x, labels, keys: run(attack, problem.forward, margin, x, labels, keys, cfg)
    return jax.jit(solve)(problem.x, problem.labels, problem.keys)


def positions(problem, cfg):
    """Where MI-FGSM is after each step."""
    state = MI_FGSM.init(problem.forward, margin, problem.x, problem.labels, problem.keys, cfg)
    for _ in range(cfg.steps):
        state = MI_FGSM.step(problem.forward, margin, state, cfg)
        yield state.x_adv


def test_bim_is_pgd_from_the_image_itself():
    problem = attack_problems.mlp()
    pgd = GradientConfig(step_size=1 / 255, steps=10, random_start=False)
    np.testing.assert_array_equal(attack(GRADIENT, problem, BIMConfig()), attack(GRADIENT, problem, pgd))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_without_memory_mi_fgsm_is_bim(norm):
    problem = attack_problems.mlp()
    bim = attack(GRADIENT, problem, BIMConfig(eps=0.1, step_size=0.01, norm=norm))
    np.testing.assert_allclose(attack(MI_FGSM, problem, MIFGSMConfig(eps=0.1, decay=0.0, norm=norm)), bim, atol=1e-6)


def test_momentum_carries_over_a_top():
    """Gradients of length 1 up to 0.53, and down behind it: with memory 1, 2, 3, then 2, 1, 0 are added up."""
    forward = lambda x: jnp.stack([jnp.ones(len(x)), -jnp.abs(x[:, 0] - 0.525)], -1)
    x, keys = jnp.full((1, 1), 0.5), jax.random.split(jax.random.key(0), 1)
    problem = attack_problems.Problem(forward, x, jnp.zeros(1, jnp.int32), keys, x)
    moves = lambda decay: np.ravel(list(positions(problem, MIFGSMConfig(eps=0.1, decay=decay))))[:6]
    np.testing.assert_allclose(moves(0.0), [0.51, 0.52, 0.53, 0.52, 0.53, 0.52], atol=1e-6)
    np.testing.assert_allclose(moves(1.0), [0.51, 0.52, 0.53, 0.54, 0.55, 0.55], atol=1e-6)


def test_noise_is_the_best_of_its_points():
    problem = attack_problems.linear()
    point = lambda i: norms.start(jax.vmap(lambda key: jax.random.fold_in(key, i))(problem.keys), problem.x, 0.01, "l2")
    values = lambda x: np.asarray(margin(problem.forward(x), problem.labels))
    expected = np.max([values(point(i)) for i in range(20)], axis=0)
    found = attack(NOISE, problem, NoiseConfig(eps=0.01, norm="l2", points=20))
    np.testing.assert_allclose(values(found), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (MIFGSMConfig, {"decay": -1.0}, "decay must not be negative, got -1.0"),
        (MIFGSMConfig, {"steps": 0}, "steps must be at least 1, got 0"),
        (NoiseConfig, {"points": 0}, "points must be at least 1, got 0"),
        (NoiseConfig, {"norm": "l3"}, "unknown norm 'l3': known: linf, l2, l1"),
    ],
)
def test_bad_settings(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config(**settings)
