"""The loop: every example once an epoch, exact resume, and a loud end where the loss is no number."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from clead_jax.training.loop import Diverged, Plan, fit


class Recorder:
    """Hooks that remember."""

    def __init__(self):
        self.logs, self.epochs = [], []

    def on_log(self, step, means):
        self.logs.append((step, means))

    def on_epoch(self, epoch, step, state, means):
        self.epochs.append((epoch, step, means))


def run(step, state, first=0, plan=Plan(10, 4, 3), hooks=None, log_every=100):  # noqa: B008
    return fit(
        step,
        state,
        None,
        plan=plan,
        key=jax.random.key(0),
        first_step=first,
        place=jnp.asarray,
        fetch=jax.device_get,
        hooks=hooks or Recorder(),
        log_every=log_every,
    )


def noisy(state, frozen, index, key):
    state = state * 0.9 + index.sum() + jax.random.normal(key)
    return state, {"loss": (state, jnp.float32(1))}


def test_resume_equals_straight_run():
    hooks = Recorder()
    straight = run(noisy, jnp.float32(0), hooks=hooks)
    state = jnp.float32(0)
    for number in range(4):  # the first four steps, as a killed run would have left them
        plan = Plan(10, 4, 3)
        order_key, step_key = jax.random.split(jax.random.key(0))
        epoch, row = divmod(number, plan.steps_per_epoch)
        state, _ = noisy(
            state, None, jnp.asarray(plan.order(order_key, epoch)[row]), jax.random.fold_in(step_key, number)
        )
    assert float(run(noisy, state, first=4)) == float(straight)
    assert [(e, s) for e, s, _ in hooks.epochs] == [(1, 2), (2, 4), (3, 6)]


def test_a_step_is_compiled_once_for_all_epochs_and_resumes():
    step = jax.jit(chex.assert_max_traces(noisy, n=1))
    state = run(step, jnp.float32(0), plan=Plan(10, 4, 2))
    run(step, state, first=4)


def test_the_first_steps_are_looked_at_however_rare_the_looks():
    hooks, plan = Recorder(), Plan(400, 4, 1)
    run(noisy, jnp.float32(0), first=7, plan=plan, hooks=hooks, log_every=50)
    assert [step for step, _ in hooks.logs] == [8, 12, 50, 100]


def test_an_epochs_means_do_not_depend_on_the_looks():
    """Summed over groups of steps they would, in the last bit; then a resumed run would write other metrics."""
    rare, often = Recorder(), Recorder()
    values = jnp.float32([2.0**53] + [1.0] * 99)  # in float64 a single 1 is lost beside the first, several are not

    def step(state, frozen, index, key):
        return state + 1, {"loss": (values[state], jnp.float32(1))}

    for hooks, log_every in ((rare, 100), (often, 3)):
        run(step, jnp.int32(0), plan=Plan(400, 4, 1), hooks=hooks, log_every=log_every)
    assert rare.epochs == often.epochs


def test_epoch_is_a_fresh_permutation():
    plan = Plan(12, 4, 2)
    first, second = (plan.order(jax.random.key(0), e) for e in (0, 1))
    assert sorted(first.ravel()) == list(range(12)) and not np.array_equal(first, second)
    assert plan.order(jax.random.key(0), 0).shape == (3, 4)


def test_metrics_are_sums_divided_once():
    def step(state, frozen, index, key):
        return state + 1, {"loss": (state, jnp.float32(1)), "share": (state, jnp.float32(4))}

    hooks = Recorder()
    run(step, jnp.float32(0), hooks=hooks, plan=Plan(8, 4, 1))
    assert hooks.epochs[0][2] == {"loss": 0.5, "share": 1 / 8}


def test_stops_at_the_step_whose_loss_is_no_number():
    def step(state, frozen, index, key):
        return state + 1, {"loss": (jnp.where(state == 2, jnp.nan, 0.0), jnp.float32(1))}

    with pytest.raises(Diverged, match="nan at step 3"):
        run(step, jnp.float32(0), log_every=100)


def test_a_share_of_every_batch_is_of_the_extra_examples():
    plain, plan = Plan(20, 8, 3), Plan(20, 8, 3, extra=5, extra_per_batch=3)
    rows = np.concatenate([plan.order(jax.random.key(0), epoch) for epoch in range(3)])
    assert rows.shape == (6, 8) and plan.total_steps == plain.total_steps
    assert (rows[:, :5] < 20).all() and (rows[:, 5:] >= 20).all() and {*rows[:, 5:].ravel()} == {*range(20, 25)}
    assert all(len({*plan.order(jax.random.key(0), epoch)[:, :5].ravel()}) == 10 for epoch in range(3))
    whole = Plan(20, 8, 1, extra=5, extra_per_batch=8).order(jax.random.key(0), 0)
    assert whole.shape == (2, 8) and (whole >= 20).all()
    np.testing.assert_array_equal(
        plain.order(jax.random.key(0), 1), Plan(20, 8, 3, extra=5).order(jax.random.key(0), 1)
    )
