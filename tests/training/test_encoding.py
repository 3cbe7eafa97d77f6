"""Who shares BatchNorm's statistics, which outputs are compared, and the teacher's place beside the views."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from clead_jax.training import encoding, state
from clead_jax.training.step import make_step


class Normed(nn.Module):
    """BatchNorm of the pixels, then one layer; the methods of `models.Network`."""

    def setup(self):
        self.backbone, self.projector, self.head = nn.BatchNorm(momentum=0.9), nn.Dense(4), nn.Dense(3)

    def features(self, x, train):
        return self.backbone(x.reshape(len(x), -1), use_running_average=not train)

    def project(self, h):
        return self.projector(h)

    def classify(self, h):
        return self.head(h)

    def __call__(self, x, train):
        h = self.features(x, train)
        return self.project(h), self.classify(h)


NETWORK = Normed()
VIEWS = jnp.asarray(np.random.default_rng(0).random((8, 2, 2, 2, 1)), jnp.float32).at[:, 1].multiply(5)
VARIABLES = NETWORK.init(jax.random.key(0), VIEWS[:, 0], False)


def normalised(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def test_together_all_views_are_one_batch():
    flat = np.asarray(VIEWS).reshape(16, 4)
    features, stats = encoding.together(NETWORK, VARIABLES, VIEWS, True)
    np.testing.assert_allclose(features, normalised(flat), atol=1e-5)
    np.testing.assert_allclose(stats["backbone"]["mean"], 0.1 * flat.mean(0), rtol=1e-4)


def test_apart_every_view_is_a_batch_and_moves_the_running_statistics_in_turn():
    first, second = np.asarray(VIEWS).reshape(8, 2, 4).swapaxes(0, 1)
    features, stats = encoding.apart(NETWORK, VARIABLES, VIEWS, True)
    expected = np.stack([normalised(first), normalised(second)], 1).reshape(16, 4)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(stats["backbone"]["mean"], 0.9 * 0.1 * first.mean(0) + 0.1 * second.mean(0), rtol=1e-4)


@pytest.mark.parametrize("encode", encoding.ENCODERS.values(), ids=list(encoding.ENCODERS))
def test_in_eval_mode_nothing_depends_on_the_other_views(encode):
    features, stats = encode(NETWORK, VARIABLES, VIEWS, False)
    np.testing.assert_allclose(features, VIEWS.reshape(16, 4), rtol=1e-4)
    assert stats is VARIABLES["batch_stats"]


def test_the_cosine_of_joined_outputs_is_the_mean_of_their_cosines():
    cosine = lambda a, b: (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    x, y = VIEWS[:, 0].reshape(8, 4), VIEWS[:, 1].reshape(8, 4)
    outputs = encoding.outputs(NETWORK, ("backbone", "projector"))
    (h, g), (k, f) = outputs(VARIABLES, x), outputs(VARIABLES, y)
    np.testing.assert_array_equal(h, x)
    expected = (cosine(h, k) + cosine(g, f)) / 2
    np.testing.assert_allclose(cosine(encoding.joined([h, g]), encoding.joined([k, f])), expected, rtol=1e-5)
    np.testing.assert_array_equal(encoding.joined([h]), h)


def test_the_teachers_embedding_is_the_last_view_and_gets_no_gradient():
    parts, tx = ("backbone", "projector", "head"), optax.sgd(0.1)
    seen, begun = [], state.create(VARIABLES, parts, tx)
    teacher_weights = jax.tree.map(lambda leaf: 2 * leaf + 1, VARIABLES)
    teach = lambda variables, images, keys: NETWORK.apply(variables, images, False)[0]
    term = lambda z, logits, labels: seen.append((z.shape, logits.shape)) or ((z[:, 0] - z[:, 2]) ** 2).sum()
    views = lambda *of: VIEWS
    step = make_step(NETWORK, tx, views, {"loss": (1.0, term)}, encode=encoding.apart, teacher=teach)
    batch = state.Batch(VIEWS[:, 0], jnp.zeros(8, jnp.int32), jnp.arange(8))
    frozen = state.Frozen(begun[1], teacher=teacher_weights)
    new, metrics = step(begun[0], frozen, batch, jax.random.key(0))
    assert seen[0] == ((8, 3, 4), (8, 2, 3)) and set(new.params) == set(parts)
    features = normalised(np.asarray(VIEWS[:, 0]).reshape(8, 4))  # by the first view's own statistics
    z = NETWORK.apply(VARIABLES, features, method=NETWORK.project)
    taught = teach(teacher_weights, VIEWS[:, 0], None)
    assert float(metrics["loss"][0] / 8) == pytest.approx(float(((z - taught) ** 2).sum()), rel=1e-3)
