"""ACL, DynACL and AIR: the limits in which they are simpler losses, and what their switches do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.losses.acl import ACLConfig, AIRConfig, acl, air
from clead_jax.losses.contrastive import ContrastiveConfig, info_nce

Z = jax.random.normal(jax.random.key(0), (6, 5, 5))  # two clean views, the plain image, two attacked views
NO_LABELS = jnp.zeros(6, int)


def simclr(z):
    return float(info_nce(z, NO_LABELS, ContrastiveConfig(0.5, pairing="all")).sum() / len(z))


def of_acl(z=Z, **settings):
    return float(acl(z, NO_LABELS, ACLConfig(**settings)).sum() / len(z))


def of_air(z=Z, **settings):
    return float(air(z, NO_LABELS, AIRConfig(**settings)).sum() / len(z))


def test_acl_is_the_mean_of_simclr_on_either_pair():
    assert of_acl() == pytest.approx((simclr(Z[:, :2]) + simclr(Z[:, 3:])) / 2, rel=1e-5)
    tied = jnp.concatenate([Z[:, :2], Z[:, :2]], axis=1)
    assert of_acl(tied) == pytest.approx(simclr(Z[:, :2]), rel=1e-5)


def test_weight_moves_to_the_attacked_pair_as_the_strength_falls():
    assert of_acl(shift=2 / 3, strength=1.0) == pytest.approx(of_acl(), rel=1e-6)
    assert of_acl(shift=1.0, strength=0.0) == pytest.approx(simclr(Z[:, 3:]), rel=1e-5)


def test_keys_equal_to_the_views_change_the_gradient_alone():
    config = ACLConfig(keys=True)
    both = jnp.concatenate([Z, Z], axis=1)
    assert float(acl(both, NO_LABELS, config).sum() / 6) == pytest.approx(of_acl(), rel=1e-5)
    stopped = lambda z: acl(jnp.concatenate([z, jax.lax.stop_gradient(z)], axis=1), NO_LABELS, config).sum()
    plain = jax.grad(lambda z: acl(z, NO_LABELS, ACLConfig()).sum())(Z)
    assert np.abs(jax.grad(stopped)(Z) - plain).max() > 1e-3


def test_air_of_weights_0_is_twice_acl():
    assert of_air(standard=0, robust=0, strength=1.0) == pytest.approx(2 * of_acl(), rel=1e-6)


def test_in_the_papers_form_what_does_not_vary_costs_nothing_and_in_the_released_one_it_does():
    same = Z.at[:, 1].set(Z[:, 0]).at[:, 4].set(Z[:, 3])
    for settings in ({"standard": 1, "robust": 0}, {"standard": 0, "robust": 1}):
        extra = lambda z, form, s=settings: of_air(z, air_form=form, **s) - of_air(z, standard=0, robust=0)
        assert extra(same, "paper") == pytest.approx(0, abs=1e-5)
        assert extra(Z, "paper") > 0.01
        assert extra(same, "released") < -0.1


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (ACLConfig, {"shift": 2}, r"shift must lie in \[0, 1\], got 2"),
        (ACLConfig, {"temperature": 0}, "temperature must lie in"),
        (AIRConfig, {"air_form": "new"}, "unknown air_form 'new': known: released, paper"),
        (AIRConfig, {"robust": -1}, "robust must not be negative"),
    ],
)
def test_impossible_settings_are_refused(config, settings, said):
    with pytest.raises(ValueError, match=said):
        config(**settings)


def test_views_that_are_missing_are_named():
    with pytest.raises(ValueError, match="acl needs two clean and two attacked views, not 3"):
        acl(Z[:, :3], NO_LABELS, ACLConfig())
    with pytest.raises(ValueError, match="air needs two clean views, the plain image and two attacked views, not 4"):
        air(Z[:, :4], NO_LABELS, AIRConfig())
