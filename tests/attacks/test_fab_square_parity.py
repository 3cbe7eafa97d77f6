"""FAB and Square against what the authors' PyTorch implementations found on the same nets and images."""

import attack_problems
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.attacks import FABConfig, SquareConfig
from clead_jax.attacks.fab import FAB
from clead_jax.attacks.objectives import margin
from clead_jax.attacks.square import SQUARE


@pytest.fixture(scope="module", params=["robust", "clean"])
def reference(request, shared):
    return load(shared, request.param)


def load(shared, name):
    path = shared / "parity" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no reference results at {path}")
    return dict(np.load(path))


def drive(reference, attack, cfg, rows, chunk):
    """(rows, state) after every `chunk` steps in one program; rows that are done are dropped, 16 at a time."""
    forward = attack_problems.reference_net(reference)
    x, labels = jnp.asarray(reference["images"][rows], jnp.float32) / 255, jnp.asarray(reference["labels"][rows])
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(0), i))(jnp.asarray(rows))
    state = jax.jit(lambda *args: attack.init(forward, margin, *args))(x, labels, keys, cfg)
    one = lambda _, state: attack.step(forward, margin, state, cfg)
    advance = jax.jit(lambda state: one(0, state) if chunk == 1 else jax.lax.fori_loop(0, chunk, one, state))
    for _ in range(0, attack.num_steps(cfg), chunk):
        state = advance(state)
        yield rows, state
        left = np.flatnonzero(~np.asarray(attack.done(state)))
        size = max(16, -(-len(left) // 16) * 16)
        if len(left) and size < len(rows):
            left = np.resize(left, size)
            rows, state = rows[left], jax.tree.map(lambda leaf, left=left: leaf[left], state)


def compare_distances(reference, norm, n, steps):
    rows = np.flatnonzero(reference["clean"])[:n]  # the others are at distance 0
    *_, (_, state) = drive(reference, FAB, FABConfig(eps=jnp.inf, norm=norm, steps=steps), rows, chunk=1)
    found, expected = np.asarray(state.distance), reference[f"fab_{norm}/distance"][rows]
    assert np.median(found) < 1.03 * np.median(expected)
    assert np.median(found / expected) < 1.03 and np.max(found / expected) < 1.25
    return found / expected


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_few_steps_of_fab_come_as_near(shared, norm):
    compare_distances(load(shared, "clean"), norm, n=8, steps=20)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_finds_images_as_near(reference, norm):
    assert 0.99 < np.median(compare_distances(reference, norm, n=48, steps=100)) < 1.005


@pytest.mark.slow
def test_square_breaks_as_many(reference):
    """At most one image more stays correct; the two agree on 98.5 % of all images, the misclassified ones included."""
    rows = np.flatnonzero(reference["clean"])
    *_, (rows, state) = drive(reference, SQUARE, SquareConfig(), rows, chunk=100)
    correct = np.zeros(len(reference["clean"]), bool)
    correct[rows[~np.asarray(SQUARE.done(state))]] = True
    assert correct.sum() <= reference["square_linf/correct"].sum() + 1
    assert np.mean(correct == reference["square_linf/correct"]) >= 0.985
