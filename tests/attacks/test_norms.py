import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import norms

KEYS = jax.random.split(jax.random.key(0), 64)
X = jnp.full((64, 4, 4, 3), 0.5)


def lengths(delta, norm):
    return {"linf": lambda: jnp.abs(delta).max((1, 2, 3)), "l2": lambda: norms.l2(delta)}[norm]()


@pytest.mark.parametrize("norm", norms.NORMS)
def test_starts_fill_the_ball_and_differ(norm):
    drawn = norms.start(KEYS, X, 0.2, norm)
    far = lengths(drawn - X, norm)
    assert far.max() <= 0.2 + 1e-6 and far.mean() > 0.9 * 0.2  # nearly all of a 48-d ball is near its surface
    assert abs(float((drawn - X).mean())) < 0.01
    assert len(np.unique(np.asarray(far))) > 32


def test_starts_are_uniform_in_the_l2_ball():
    """In d = 3 the radius has mean 3/4 and its cube is uniform."""
    keys = jax.random.split(jax.random.key(1), 4000)
    radius = norms.l2(norms.start(keys, jnp.full((4000, 3), 0.5), 0.4, "l2") - 0.5) / 0.4
    np.testing.assert_allclose(radius.mean(), 0.75, atol=0.01)
    np.testing.assert_allclose(np.quantile(radius**3, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_a_start_depends_on_its_own_key_only(norm):
    np.testing.assert_array_equal(norms.start(KEYS[3:5], X[:2], 0.1, norm), norms.start(KEYS, X, 0.1, norm)[3:5])


@pytest.mark.parametrize("norm", norms.NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-30])
def test_a_step_has_the_length_asked_for_however_small_the_gradient(norm, scale):
    grad = scale * jax.random.normal(jax.random.key(2), X.shape)
    moved = norms.ascend(X, grad, 0.25, norm) - X
    np.testing.assert_allclose(lengths(moved, norm), 0.25, rtol=1e-5)
    assert (jnp.sum(moved * grad / scale, (1, 2, 3)) > 0).all()


@pytest.mark.parametrize("norm", norms.NORMS)
def test_a_zero_gradient_moves_nothing(norm):
    np.testing.assert_array_equal(norms.ascend(X, jnp.zeros_like(X), 0.25, norm), X)


@pytest.mark.parametrize("norm", norms.NORMS)
def test_projection_reaches_the_ball_and_leaves_what_is_inside(norm):
    near, far = X + 0.01, X + jax.random.normal(jax.random.key(3), X.shape)
    np.testing.assert_array_equal(norms.project(near, X, 0.1, norm), near)
    np.testing.assert_allclose(lengths(norms.project(far, X, 0.1, norm) - X, norm), 0.1, rtol=1e-5)


def test_l2_projection_keeps_the_direction():
    np.testing.assert_allclose(
        norms.project(jnp.array([[0.5, 0.9]]), jnp.array([[0.2, 0.5]]), 0.25, "l2"), [[0.35, 0.7]], rtol=1e-6
    )


@pytest.mark.parametrize("norm", norms.NORMS)
def test_projection_at_a_corner_of_the_box(norm):
    x = jnp.array([[0.0, 1.0]])
    x_adv = norms.project(x + jnp.array([[-0.5, -0.5]]), x, 0.1, norm)
    assert x_adv[0, 0] == 0 and 0.9 - 1e-6 <= x_adv[0, 1] < 1


@pytest.mark.parametrize("function", [norms.ascend, norms.project])
def test_unknown_norm(function):
    with pytest.raises(ValueError, match="unknown norm 'l3': known: linf, l2"):
        function(X, X, 0.1, "l3")
