"""Keys of one kind, whatever generator JAX has by default."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clead_jax.losses  # noqa: F401  registers the losses
from clead_jax.attacks import run
from clead_jax.core import numerics, spec
from clead_jax.core.registry import ATTACKS, LOSSES


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg", "threefry2x32"])
def test_a_seed_has_one_key(impl):
    found = numerics.threefry(jax.random.key(5, impl=impl))
    np.testing.assert_array_equal(jax.random.key_data(found), jax.random.key_data(numerics.key(5)))
    many = numerics.threefry(jax.random.split(jax.random.key(5, impl=impl), 3))
    assert many.shape == (3,) and str(jax.random.key_impl(many)) == numerics.THREEFRY


def test_an_old_key_is_taken():
    np.testing.assert_array_equal(
        jax.random.key_data(numerics.threefry(jax.random.PRNGKey(5))), jax.random.key_data(numerics.key(5))
    )


def numeric_fields():
    for name in ATTACKS:
        config = ATTACKS[name].config
        for field, value in vars(config()).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                yield pytest.param(config, field, value, id=f"{name}.{field}")


@pytest.mark.parametrize(("config", "field", "usual"), numeric_fields())
def test_every_number_of_every_attack_is_bounded(config, field, usual):
    may_be_0 = field == "candidates" or (field == "targets" and config is ATTACKS["fmn"].config)
    wrong = [float("nan"), -1] + [float("inf")] * (field != "eps")
    wrong += [1.5] * isinstance(usual, int) + [0] * (isinstance(usual, int) and usual > 0 and not may_be_0)
    for value in wrong:
        with pytest.raises(ValueError, match=f"{field} must .*got"):
            config(**{field: value})


def test_ranges_have_ends_of_both_kinds():
    cfg = ATTACKS["square"].config()
    spec.check_ranges(cfg, p_init="[0.8, 1)")
    with pytest.raises(ValueError, match=r"p_init must lie in \(0.8, 1\), got 0.8"):
        spec.check_ranges(cfg, p_init="(0.8, 1)")


STRICT = {"jax_numpy_dtype_promotion": ("strict", "standard"), "jax_numpy_rank_promotion": ("raise", "allow")}


@pytest.fixture
def strict():
    for name, (value, _) in STRICT.items():
        jax.config.update(name, value)
    yield
    for name, (_, usual) in STRICT.items():
        jax.config.update(name, usual)


@pytest.mark.parametrize("name", ["bim", "apgd_t", "fab_t", "square", "cw_l2"])
def test_an_attack_runs_inside_a_strict_program(strict, name):
    x, labels, keys = jnp.full((3, 4, 4, 1), 0.5), jnp.arange(3, dtype=jnp.int32), jax.random.split(numerics.key(0), 3)
    few = {"steps": 2, "rounds": 1, "queries": 3, "targets": 2}
    cfg = ATTACKS[name].config()
    cfg = dataclasses.replace(cfg, **{field: n for field, n in few.items() if hasattr(cfg, field)})
    objective, forward = ATTACKS[name].info["objective"], lambda x: x.reshape(len(x), -1)[:, :5] * jnp.float32(2)
    found = jax.jit(lambda x: run(ATTACKS[name].value, forward, objective, x, labels, keys, cfg))(x)
    assert found.shape == x.shape and np.isfinite(found).all()


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_has_a_gradient_inside_a_strict_program(strict, name):
    loss, cfg = LOSSES[name].value, LOSSES[name].config()
    views = LOSSES[name].info.get("views", 3) * (1 + getattr(cfg, "keys", False))
    z = jnp.asarray(np.random.RandomState(0).randn(4, views, 3), jnp.float32)
    labels = jnp.arange(4, dtype=jnp.int32) % 2
    assert np.isfinite(jax.jit(jax.grad(lambda z: loss(z, labels, cfg).sum()))(z)).all()
