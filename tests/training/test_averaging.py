"""Averages against loops, and batch statistics against those that are counted by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from clead_jax.training import averaging
from clead_jax.training.state import TrainState

WEIGHTS = np.random.default_rng(0).normal(size=(13, 3)).astype(np.float32)  # after step 0, 1, 2 ...


def averaged(text, total_steps=12, steps_per_epoch=3):
    """The average after all steps, and its name."""
    extra = averaging.extra(text, total_steps, steps_per_epoch)
    kept = extra.init({"w": jnp.asarray(WEIGHTS[0])}, {})
    for step in range(1, total_steps + 1):
        new = TrainState(jnp.int32(step), {"w": jnp.asarray(WEIGHTS[step])}, {}, (), kept)
        kept = extra.update(kept, new)
    ((name, params),) = extra.weights(kept).items()
    return name, np.asarray(params["w"])


def test_ema_follows_its_recursion():
    mean = WEIGHTS[0]
    for step in range(1, 13):
        decay = min(0.6, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * WEIGHTS[step]
    name, found = averaged("ema(decay=0.6)")
    assert name == "ema"
    np.testing.assert_allclose(found, mean, rtol=1e-5)


def test_swa_is_the_mean_of_the_last_epochs():
    name, found = averaged("swa(start=0.5)")
    assert name == "swa"
    np.testing.assert_allclose(found, WEIGHTS[[6, 9, 12]].mean(0), rtol=1e-5)


def test_swa_before_its_start_is_the_weights_themselves():
    _, found = averaged("swa(start=0.9)", total_steps=9)
    np.testing.assert_array_equal(found, WEIGHTS[9])


def test_no_average_keeps_nothing():
    extra = averaging.extra("", 10, 5)
    assert extra.init({"w": jnp.ones(3)}, {}) == {} and extra.weights({}) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("emma", "unknown average 'emma'; known: ema, swa"),
        ("ema(decay=1)", r"decay must lie in \[0, 1\)"),
        ("swa(start=-1)", r"start must lie in \[0, 1\)"),
        ("swa(epochs=3)", "average 'swa' has no setting 'epochs'; it has start"),
    ],
)
def test_what_is_no_average(text, said):
    with pytest.raises(ValueError, match=said):
        averaging.extra(text, 10, 5)


@pytest.mark.parametrize("momentum", [0.9, 0.5])
def test_batch_statistics_are_the_mean_over_the_batches_whatever_the_momentum(momentum):
    norm = nn.BatchNorm(use_running_average=False, momentum=momentum)
    batches = np.random.default_rng(1).normal(2, 3, (4, 16, 5)).astype(np.float32)
    variables = norm.init(jax.random.key(0), batches[0])
    apply = lambda stats, x: norm.apply(variables | {"batch_stats": stats}, x, mutable=["batch_stats"])[1][
        "batch_stats"
    ]
    found = averaging.reestimated(apply, variables["batch_stats"], batches)
    np.testing.assert_allclose(found["mean"], batches.mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(found["var"], batches.var(1).mean(0), rtol=1e-3)
