import itertools

import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import SquareConfig, fooled, run
from clead_jax.attacks.fab_projection import length
from clead_jax.attacks.objectives import margin
from clead_jax.attacks.square import SQUARE, _bump, _place, _side

EPS = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
every_norm = pytest.mark.parametrize("norm", list(EPS))


def states(problem, cfg, queries, forward=None):
    """The state before any query, and after each."""
    forward = forward or problem.forward
    state = SQUARE.init(forward, margin, problem.x, problem.labels, problem.keys, cfg)
    step = jax.jit(lambda state: SQUARE.step(forward, margin, state, cfg))
    yield state
    for _ in range(queries):
        state = step(state)
        yield state


@pytest.fixture
def grey():
    """Images of one grey, 16 x 16, and a model that likes whatever it is shown less and less."""
    x = jnp.full((8, 16, 16, 3), 0.5)
    weights = jax.random.normal(jax.random.key(0), (768, 2))
    forward = lambda x: (x - 0.5).reshape(len(x), -1) @ weights
    return attack_problems.Problem(forward, x, jnp.zeros(8, jnp.int32), jax.random.split(jax.random.key(1), 8), weights)


def test_linf_starts_at_stripes_and_moves_one_square_at_a_time(grey):
    cfg = SquareConfig(eps=0.1, p_init=0.1)
    start, *later = (np.asarray(SQUARE.result(state)) for state in states(grey, cfg, 20))
    assert set(np.unique(start.round(4))) == {np.float32(0.4), np.float32(0.6)}
    assert (start == start[:, :1]).all() and (start != start[:, :, :1]).any()
    np.testing.assert_array_equal(later[0], start)  # the first query looks at the start
    moved = 0
    for before, after in itertools.pairwise(later):
        for changed in np.any(before != after, axis=-1):
            rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
            moved += len(rows) > 0
            assert len(rows) == 0 or (np.ptp(rows) < 5 and np.ptp(columns) < 5)  # 5 = sqrt(0.1 * 256)
    assert moved > 10
    assert np.allclose(np.abs(later[-1] - 0.5), 0.1)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_l2_and_l1_spend_all_they_have(grey, norm):
    for state in states(grey, SquareConfig(eps=EPS[norm], norm=norm), 20):
        np.testing.assert_allclose(length(SQUARE.result(state) - grey.x, norm), EPS[norm], rtol=1e-4)


@every_norm
def test_the_objective_only_grows_and_most_of_the_time_it_does(grey, norm):
    values = np.stack([state.best.value for state in states(grey, SquareConfig(eps=EPS[norm], norm=norm), 60)])
    assert (values[1:] >= values[:-1]).all()
    assert (values[-1] > values[1] + 0.1).all()


@every_norm
def test_rows_draw_their_own_windows_and_every_query_another(grey, norm):
    same = grey._replace(keys=jnp.repeat(grey.keys[:1], 8))
    ends = [np.asarray([*states(p, SquareConfig(eps=EPS[norm], norm=norm), 10)][-1].best.x_adv) for p in (same, grey)]
    np.testing.assert_array_equal(ends[0], np.broadcast_to(ends[0][:1], ends[0].shape))
    assert not np.array_equal(ends[1][0], ends[1][1])


@pytest.mark.parametrize(
    ("rescale", "queries", "made", "side"),
    [
        (False, 5000, 0, 29),  # sqrt(0.8 * 1024)
        (False, 5000, 10, 29),
        (False, 5000, 11, 20),
        (False, 5000, 51, 14),
        (False, 5000, 4999, 3),
        (True, 5000, 5, 29),
        (True, 5000, 6, 20),
        (True, 5000, 4999, 1),
        (True, 100, 99, 1),
    ],
)
def test_windows_shrink_by_the_schedule(rescale, queries, made, side):
    cfg = SquareConfig(queries=queries, rescale=rescale)
    x = jnp.zeros((2, 32, 32, 3))
    state = SQUARE.init(lambda x: x, margin, x, jnp.zeros(2, jnp.int32), jax.random.split(jax.random.key(0), 2), cfg)
    np.testing.assert_array_equal(_side(state._replace(made=jnp.full(2, made)), cfg), side)


def test_windows_reach_every_pixel_and_stay_inside():
    uniform, side = jnp.linspace(0, 1, 101)[:, None], jnp.full((101, 1), 3)
    window = _place(uniform, side, 8)
    inside = np.asarray((window >= 0) & (window < 3))
    assert (inside.sum(1) == 3).all() and inside.any(0).all()


@pytest.mark.parametrize("side", [3, 5, 6])
def test_a_bump_is_two_opposite_hills(side):
    """Against the sum over squares that eq. 2 of the paper writes out."""

    def hill(height, width):
        out, (r, c) = np.zeros((height, width)), (height // 2, width // 2)
        for k in range(max(r, c) + 1):
            out[max(r - k, 0) : r + k + 1, max(c - k, 0) : c + k + 1] += 1 / (k + 1) ** 2
        return out

    expected = np.concatenate([hill(side // 2, side), -hill(side - side // 2, side)])
    i = jnp.arange(side)[None]
    upright, flat = (_bump(i, i, jnp.array([[side]]), jnp.array([[flip]]))[0, :, :, 0] for flip in (True, False))
    np.testing.assert_allclose(upright, expected, rtol=1e-5)
    np.testing.assert_allclose(flat, expected.T, rtol=1e-5)


@every_norm
def test_it_breaks_a_net_whose_gradient_is_hidden(norm):
    problem = attack_problems.mlp(batch=16)
    hidden = lambda x: jax.lax.stop_gradient(jnp.round(problem.forward(x), 3))
    cfg = SquareConfig(eps={"linf": 0.2, "l2": 1.5, "l1": 8.0}[norm], norm=norm, queries=300, rescale=True)
    x_adv = jax.jit(lambda x: run(SQUARE, hidden, margin, x, problem.labels, problem.keys, cfg))(problem.x)
    assert fooled(problem.forward(x_adv), problem.labels).mean() > 0.6


def test_steps_stay_rolled_on_the_cpu(grey):
    program = jax.jit(lambda x: run(SQUARE, grey.forward, margin, x, grey.labels, grey.keys, SquareConfig(queries=5)))
    assert SQUARE.forward_only and "stablehlo.while" in program.lower(grey.x).as_text()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": "l3"}, "unknown norm 'l3'"),
        ({"eps": -1.0}, "eps must not be negative, got -1.0"),
        ({"p_init": 0.0}, r"p_init must lie in \(0, 1\], got 0.0"),
        ({"queries": 0}, "queries must be at least 1, got 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SquareConfig(**settings)


def test_it_wants_images():
    with pytest.raises(ValueError, match=r"images \[B, H, W, C\], got \[2, 5\]"):
        SQUARE.init(lambda x: x, margin, jnp.zeros((2, 5)), jnp.zeros(2, jnp.int32), None, SquareConfig())
