"""Keys of one kind, whatever generator JAX has by default."""

import jax
import numpy as np
import pytest

from clead_jax.core import numerics, spec
from clead_jax.core.registry import ATTACKS


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
    wrong = [float("nan"), -1] + [float("inf")] * (field != "eps")
    wrong += [1.5] * isinstance(usual, int) + [0] * (isinstance(usual, int) and usual > 0)
    for value in wrong:
        with pytest.raises(ValueError, match=f"{field} must .*got"):
            config(**{field: value})


def test_ranges_have_ends_of_both_kinds():
    cfg = ATTACKS["square"].config()
    spec.check_ranges(cfg, p_init="[0.8, 1)")
    with pytest.raises(ValueError, match=r"p_init must lie in \(0.8, 1\), got 0.8"):
        spec.check_ranges(cfg, p_init="(0.8, 1)")
