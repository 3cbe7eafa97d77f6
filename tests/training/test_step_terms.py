"""Several terms and views in one step, on a network small enough to be checked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from clead_jax.losses.parse import named_loss
from clead_jax.training import state
from clead_jax.training.step import make_step

CROSS_ENTROPY = named_loss("cross_entropy", {})

PARTS = ("backbone", "projector", "head")


class Tiny(nn.Module):
    """One layer, two heads, the methods of `models.Network`."""

    def setup(self):
        self.backbone, self.projector, self.head = nn.Dense(6), nn.Dense(4), nn.Dense(3)

    def features(self, x, train):
        return nn.tanh(self.backbone(x.reshape(len(x), -1)))

    def project(self, h):
        return self.projector(h)

    def classify(self, h):
        return self.head(h)

    def __call__(self, x, train):
        h = self.features(x, train)
        return self.project(h), self.classify(h)


NETWORK, INDEX = Tiny(), jnp.arange(8)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 2, 2, 1)).astype(np.uint8)
LABELS = np.random.default_rng(1).integers(0, 3, 12).astype(np.int32)
VARIABLES = NETWORK.init(jax.random.key(0), IMAGES[:1] / 255.0, False)


def two_views(state, variables, reference, batch, keys):
    x = batch.images.astype(jnp.float32) / 255
    return jnp.stack([x, x / 2], axis=1)


def spread(z, logits, labels):
    return (z[:, 0] * z[:, 1]).sum(-1).mean()  # needs the views of an image side by side


def one_step(terms, images=IMAGES):
    begun, rest = state.create(VARIABLES, PARTS, optax.sgd(0.5))
    batch = state.Batch(jnp.asarray(images)[INDEX], jnp.asarray(LABELS)[INDEX], INDEX)
    step = jax.jit(make_step(NETWORK, optax.sgd(0.5), two_views, terms))
    new, metrics = step(begun, state.Frozen(rest), batch, jax.random.key(1))
    return begun, new, {name: float(total / count) for name, (total, count) in metrics.items()}


def by_hand(params):
    """-> (cross entropy over both views, spread, share of right views)."""
    x = IMAGES[:8].reshape(8, 4) / 255
    heads = lambda x: NETWORK.apply({"params": params}, x.reshape(8, 2, 2, 1), True)
    (z0, first), (z1, second) = heads(x), heads(x / 2)
    logits, labels = jnp.concatenate([first, second]), np.tile(LABELS[:8], 2)
    ce = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    return ce, (z0 * z1).sum(-1).mean(), (logits.argmax(-1) == labels).mean()


def test_is_one_step_of_sgd_on_the_weighted_sum():
    _, new, metrics = one_step({"ce": (2.0, CROSS_ENTROPY), "spread": (3.0, spread)})
    ce, spreading, accuracy = map(float, by_hand(VARIABLES["params"]))
    assert metrics == pytest.approx(
        {"loss": 2 * ce + 3 * spreading, "term_ce": 2 * ce, "term_spread": 3 * spreading, "train_accuracy": accuracy}
    )
    grads = jax.grad(lambda p: 2 * by_hand(p)[0] + 3 * by_hand(p)[1])(VARIABLES["params"])
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, VARIABLES["params"], grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, expected)
    assert int(new.step) == 1


def test_the_classifier_moves_the_encoder_and_a_missing_term_moves_nothing():
    begun, new, metrics = one_step({"ce": (1.0, CROSS_ENTROPY)})
    moved = {part: not np.array_equal(new.params[part]["kernel"], begun.params[part]["kernel"]) for part in PARTS}
    assert moved == {"backbone": True, "projector": False, "head": True}
    assert set(metrics) == {"loss", "term_ce", "train_accuracy"}
