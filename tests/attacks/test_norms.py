import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import norms

KEYS = jax.random.split(jax.random.key(0), 64)
X = jnp.full((64, 4, 4, 3), 0.5)


def lengths(delta, norm):
    size = jnp.abs(delta)
    return {"linf": size.max((1, 2, 3)), "l2": norms.l2(delta), "l1": size.sum((1, 2, 3))}[norm]


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


def test_starts_are_uniform_in_the_l1_ball():
    """As in L2; and in d = 2 the ball is a square on its corner, whose sides are x + y and x - y: uniform, too."""
    keys = jax.random.split(jax.random.key(1), 4000)
    radius = jnp.abs(norms.start(keys, jnp.full((4000, 3), 0.5), 0.4, "l1") - 0.5).sum(-1) / 0.4
    np.testing.assert_allclose(np.quantile(radius**3, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.03)
    x, y = ((norms.start(keys, jnp.full((4000, 2), 0.5), 0.4, "l1") - 0.5) / 0.4).T
    for side in (x + y, x - y):
        np.testing.assert_allclose(np.quantile(side, [0.1, 0.25, 0.5, 0.75]), [-0.8, -0.5, 0, 0.5], atol=0.05)


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
    near, far = X + 0.001, X + jax.random.normal(jax.random.key(3), X.shape)
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
    with pytest.raises(ValueError, match="unknown norm 'l3': known: linf, l2, l1"):
        function(X, X, 0.1, "l3")


def test_l1_projection_is_the_nearest_point_of_ball_and_box():
    """p is the projection of u if and only if <u - p, z - p> <= 0 for every z of the set."""
    keys = jax.random.split(jax.random.key(4), 64)
    x = jnp.clip(jax.random.uniform(jax.random.key(5), (64, 4, 4, 3), minval=-0.2, maxval=1.2), 0.0, 1.0)
    u = x + jax.random.normal(jax.random.key(6), x.shape)
    for eps in (0.01, 1.0, 8.0, 30.0):
        p = norms.project(u, x, eps, "l1")
        sizes = lengths(p - x, "l1")
        assert sizes.max() <= eps * (1 + 1e-5) and p.min() >= 0 and p.max() <= 1
        assert eps == 30.0 or sizes.min() > eps * (1 - 1e-5)
        others = [norms.start(keys, x, eps, "l1"), x, norms.project(x + jnp.sign(u - p), x, eps, "l1")]
        others += [norms.ascend(x, u - p, eps, "l1")]  # the point of the set that lies farthest that way
        for z in others:
            assert (jnp.sum((u - p) * (z - p), (1, 2, 3)) <= 1e-4).all()


def test_an_l1_step_uses_up_one_pixel_after_the_other():
    x, grad = jnp.array([[0.5, 0.9, 0.2, 0.5]]), jnp.array([[1.0, 3.0, -2.0, 1.0]])
    step = lambda size: norms.ascend(x, grad, size, "l1")
    np.testing.assert_allclose(step(0.05), [[0.5, 0.95, 0.2, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(step(0.2), [[0.5, 1.0, 0.1, 0.5]], rtol=1e-5)
    np.testing.assert_allclose(step(0.5), [[0.6, 1.0, 0.0, 0.6]], rtol=1e-6)  # equally steep ones share
    np.testing.assert_allclose(step(9.0), [[1.0, 1.0, 0.0, 1.0]], rtol=1e-6)


def test_a_sparse_l1_step_is_shared_by_the_steepest():
    x, grad = jnp.full((3, 4), 0.5), jnp.array([[1.0, 3.0, -2.0, 0.0]] * 3)
    counts = jnp.array([[1.0], [1.2], [4.0]])  # rounded up; a pixel of no slope does not move
    moved = norms.ascend_sparse(x, grad, 0.12, counts) - x
    np.testing.assert_allclose(moved, [[0, 0.12, 0, 0], [0, 0.06, -0.06, 0], [0.04, 0.04, -0.04, 0]], atol=1e-6)
