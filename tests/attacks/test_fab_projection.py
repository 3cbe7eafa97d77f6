"""The steps onto hyperplanes, against solvers that know nothing of Newton or bits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog, minimize_scalar

from clead_jax.attacks.fab_projection import length, step_to_plane

NORMS = ("linf", "l2", "l1")
every_norm = pytest.mark.parametrize("norm", NORMS)
solve = jax.jit(step_to_plane, static_argnums=3)


def problems(pixels, rows=16, scale=1.0, seed=0):
    """Points with a fifth of the pixels at 0 and at 1, normals over four decades, gains from tiny to nearly all."""
    rng = np.random.default_rng(seed)
    x = np.clip(rng.uniform(-0.3, 1.3, (rows, pixels)), 0, 1).astype(np.float32)
    w = (scale * rng.standard_normal((rows, pixels)) * 10 ** rng.uniform(-4, 0, (rows, pixels))).astype(np.float32)
    sign = rng.choice([-1, 1], rows)
    share = 10 ** rng.uniform(-3, -0.01, rows)
    return x, w, (sign * share * most(x, w * sign[:, None])).astype(np.float32)


def most(x, w):
    """What the best corner of the box gains."""
    return np.sum(np.abs(w) * np.where(w > 0, 1 - x, x), axis=1)


def smallest_size(x, w, gain, norm):
    """The least norm of a step that gains `gain`, of one row: linear programs, or the dual of the quadratic one."""
    n, box = len(x), [*zip(-x, 1 - x, strict=True)]
    if norm == "linf":  # minimise t subject to -t <= delta <= t
        bounds = np.block([[np.eye(n), -np.ones((n, 1))], [-np.eye(n), -np.ones((n, 1))]])
        found = linprog(np.r_[np.zeros(n), 1.0], bounds, np.zeros(2 * n), np.r_[w, 0][None], [gain], [*box, (0, None)])
        return found.fun
    if norm == "l1":  # delta = up - down
        bounds = [(0, high) for _, high in box] + [(0, -low) for low, _ in box]
        return linprog(np.ones(2 * n), A_eq=np.r_[w, -w][None], b_eq=[gain], bounds=bounds).fun
    step = lambda price: np.clip(price * w, -x, 1 - x)
    dual = lambda price: 0.5 * np.sum(step(price) ** 2) - price * (w @ step(price) - gain)
    price = minimize_scalar(lambda p: -dual(p), method="brent", tol=1e-12).x
    return np.linalg.norm(step(price))


@every_norm
@pytest.mark.parametrize("pixels", [3, 40])
def test_it_is_the_smallest_step(norm, pixels):
    x, w, gain = problems(pixels)
    w = w / np.abs(w).max(1, keepdims=True)
    gain = gain / np.abs(problems(pixels)[1]).max(1)
    delta = np.asarray(solve(x, w, gain, norm))
    expected = [smallest_size(*(v.astype(np.float64) for v in row), norm) for row in zip(x, w, gain, strict=True)]
    np.testing.assert_allclose(length(delta, norm), expected, rtol=1e-4, atol=1e-6)


@every_norm
@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e20])
def test_it_lies_on_the_plane_and_in_the_box_of_a_whole_image(norm, scale):
    x, w, gain = problems(3072, rows=64, scale=scale)
    delta = np.asarray(solve(x, w, gain, norm), np.float64)
    np.testing.assert_allclose(np.sum(w * delta, axis=1) / gain, 1.0, atol=1e-5)
    assert (x + delta).min() > -1e-7 and (x + delta).max() < 1 + 1e-7


@every_norm
def test_a_gain_out_of_reach_ends_in_the_best_corner(norm):
    x, w, _ = problems(40)
    delta = solve(x, w, (2 * most(x, w)).astype(np.float32), norm)
    np.testing.assert_allclose(x + delta, w > 0, atol=1e-6)


@every_norm
def test_no_gain_and_no_gradient_ask_for_no_step(norm):
    x, w, gain = problems(40)
    assert not np.any(solve(x, w, 0 * gain, norm))
    assert not np.any(solve(x, 0 * w, gain, norm))


def test_equal_slopes_share_in_l1():
    delta = solve(jnp.full((1, 4), 0.5), jnp.array([[1.0, 2.0, -2.0, 0.5]]), jnp.array([1.0]), "l1")
    np.testing.assert_allclose(delta, [[0.0, 0.25, -0.25, 0.0]])


@every_norm
def test_lengths(norm):
    v = np.random.default_rng(0).standard_normal((3, 4, 4, 2)).astype(np.float32)
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    expected = np.linalg.norm(v.reshape(3, -1), ord=order, axis=1)
    np.testing.assert_allclose(length(v, norm), expected, rtol=1e-6)
    np.testing.assert_allclose(length(1e-30 * v, norm), 1e-30 * expected, rtol=1e-5)
    np.testing.assert_array_equal(length(0 * v, norm), 0.0)
