"""Who shares BatchNorm's statistics, which outputs are compared, and the teacher's place beside the views."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from clead_jax.core import hlo, sharding
from clead_jax.models import network
from clead_jax.training import encoding, momentum, state
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
FEATURES = encoding.outputs(NETWORK, ("backbone",))


def normalised(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def test_together_all_views_are_one_batch():
    flat = np.asarray(VIEWS).reshape(16, 4)
    features, z, stats = encoding.together(NETWORK, VARIABLES, VIEWS, True, FEATURES)
    np.testing.assert_array_equal(z, features)
    np.testing.assert_allclose(features, normalised(flat), atol=1e-5)
    np.testing.assert_allclose(stats["backbone"]["mean"], 0.1 * flat.mean(0), rtol=1e-4)


def test_apart_every_view_is_a_batch_and_moves_the_running_statistics_in_turn():
    first, second = np.asarray(VIEWS).reshape(8, 2, 4).swapaxes(0, 1)
    features, _, stats = encoding.apart(NETWORK, VARIABLES, VIEWS, True, FEATURES)
    expected = np.stack([normalised(first), normalised(second)], 1).reshape(16, 4)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(stats["backbone"]["mean"], 0.9 * 0.1 * first.mean(0) + 0.1 * second.mean(0), rtol=1e-4)


def test_per_device_every_share_is_a_batch_and_running_statistics_are_their_mean():
    """On four devices against the four shares encoded by themselves: values, statistics and the gradient."""
    mesh = sharding.data_mesh(jax.devices()[:4])
    encode = encoding.per_device(encoding.together, mesh)
    shares = np.asarray(VIEWS).reshape(4, 4, 4)
    features, z, stats = jax.jit(lambda views: encode(NETWORK, VARIABLES, views, True, FEATURES))(VIEWS)
    np.testing.assert_allclose(features, np.concatenate([normalised(share) for share in shares]), atol=1e-5)
    np.testing.assert_array_equal(z, features)
    np.testing.assert_allclose(stats["backbone"]["var"], 0.9 + 0.1 * shares.var(1).mean(0), rtol=1e-5)

    parts = VIEWS.reshape(4, 2, *VIEWS.shape[1:])
    weights = jnp.asarray(np.random.default_rng(3).normal(size=features.shape), jnp.float32)

    def loss(params, of):
        return (of({**VARIABLES, "params": params}) ** 3 * weights).sum()

    own = lambda now: encode(NETWORK, now, VIEWS, True, FEATURES)[0]
    apart = lambda now: jnp.concatenate([encoding.together(NETWORK, now, x, True, FEATURES)[0] for x in parts])
    found, expected = (jax.jit(jax.grad(loss), static_argnums=1)(VARIABLES["params"], of) for of in (own, apart))
    np.testing.assert_allclose(features, apart(VARIABLES), atol=1e-6)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


def test_per_device_no_layer_waits_for_the_others():
    """Statistics of a batch that lies on four devices take collectives; those of each device's share none."""
    mesh = sharding.data_mesh(jax.devices()[:4])

    def waits(encode):
        loss = lambda views: encode(NETWORK, VARIABLES, views, True, FEATURES)[0].sum()
        compiled = jax.jit(loss, in_shardings=sharding.split(mesh)).lower(VIEWS).compile()
        return sum(kind.count for kind in hlo.collectives(compiled.as_text()).values())

    assert waits(encoding.per_device(encoding.together, mesh)) == 1 < waits(encoding.together)  # that of the loss


def test_per_device_changes_nothing_on_one_device_or_in_eval_mode():
    assert encoding.per_device(encoding.apart, None) is encoding.apart
    assert encoding.per_device(encoding.apart, sharding.data_mesh(jax.devices()[:1])) is encoding.apart
    encode = encoding.per_device(encoding.together, sharding.data_mesh(jax.devices()[:4]))
    own, whole = (e(NETWORK, VARIABLES, VIEWS, False, FEATURES) for e in (encode, encoding.together))
    chex.assert_trees_all_equal(own, whole)


@pytest.mark.parametrize("encode", encoding.ENCODERS.values(), ids=list(encoding.ENCODERS))
def test_in_eval_mode_nothing_depends_on_the_other_views(encode):
    variables = encoding.with_norms(VARIABLES)
    features, z, stats = encode((False, True))(NETWORK, variables, VIEWS, False, FEATURES)
    np.testing.assert_allclose(features, VIEWS.reshape(16, 4), rtol=1e-4)
    np.testing.assert_array_equal(z, features)
    assert stats is variables["batch_stats"]


def of_route(scale, mean):
    """The variables with these in place of the BatchNorm's own."""
    norm = {"scale": jnp.full(4, scale), "bias": jnp.zeros(4)}
    params = {**VARIABLES["params"], "backbone": norm}
    return {"params": params, "batch_stats": {"backbone": {"mean": jnp.full(4, mean), "var": jnp.ones(4)}}}


def test_dual_attacked_views_have_a_batchnorm_and_the_others_another():
    """One by one: who is normalised with whom, by which scale, and which statistics move."""
    first, second, third = x = np.random.default_rng(1).random((3, 8, 4), np.float32)
    variables, other = encoding.with_norms(of_route(3.0, 0.5)), of_route(7.0, 0.2)
    norms = {name: {"backbone": other[name]["backbone"]} for name in other}
    variables = {name: {**variables[name], encoding.NORMS: norms[name]} for name in norms}
    encode = encoding.dual((False, True, False))
    features, z, stats = encode(
        NETWORK, variables, jnp.asarray(x).swapaxes(0, 1).reshape(8, 3, 2, 2, 1), True, FEATURES
    )
    clean = 7 * normalised(np.concatenate([first, third]))
    expected = np.stack([clean[:8], 3 * normalised(second), clean[8:]], axis=1).reshape(24, 4)
    np.testing.assert_allclose(features, expected, atol=1e-3)
    np.testing.assert_array_equal(z, features)
    mean = lambda before, batch: 0.9 * before + 0.1 * batch.mean(0)
    np.testing.assert_allclose(stats["backbone"]["mean"], mean(0.5, second), rtol=1e-4)
    others = stats[encoding.NORMS]["backbone"]["mean"]
    np.testing.assert_allclose(others, mean(0.2, np.concatenate([first, third])), rtol=1e-4)


def test_dual_with_two_views_and_equal_copies_is_apart():
    """Tied branches: one BatchNorm, every view a batch of its own."""
    tied = encoding.with_norms(VARIABLES)
    two, _, _ = encoding.dual((False, True))(NETWORK, tied, VIEWS, True, FEATURES)
    one, _, _ = encoding.apart(NETWORK, VARIABLES, VIEWS, True, FEATURES)
    np.testing.assert_allclose(two, one, rtol=1e-6)


def test_the_second_copies_are_of_batchnorm_alone_and_can_be_taken_for_the_network():
    variables = encoding.with_norms(VARIABLES)
    assert jax.tree.structure(variables["params"][encoding.NORMS]) == jax.tree.structure(
        {"backbone": VARIABLES["params"]["backbone"]}
    )
    assert encoding.with_norms(variables) is variables and encoding.clean_route(VARIABLES) is VARIABLES
    moved = jax.tree.map(lambda leaf: leaf + 1, variables)
    clean = encoding.clean_route(
        {name: {**variables[name], encoding.NORMS: moved[name][encoding.NORMS]} for name in moved}
    )
    assert jax.tree.structure(clean) == jax.tree.structure(VARIABLES)
    np.testing.assert_array_equal(clean["params"]["backbone"]["scale"], VARIABLES["params"]["backbone"]["scale"] + 1)
    np.testing.assert_array_equal(clean["params"]["head"]["kernel"], VARIABLES["params"]["head"]["kernel"])
    np.testing.assert_array_equal(
        clean["batch_stats"]["backbone"]["var"], VARIABLES["batch_stats"]["backbone"]["var"] + 1
    )


def test_a_projector_with_batchnorm_has_batch_statistics_too():
    projector = network.Projector(dim=3, hidden=5, layers=2, norm=True)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(16, 4)), jnp.float32)
    variables = projector.init(jax.random.key(0), x)
    assert set(variables["batch_stats"]) == {"BatchNorm_0", "BatchNorm_1"}
    z, new = projector.apply(variables, x, True, mutable=["batch_stats"])
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(z.std(0), 1, atol=1e-2)
    assert np.abs(new["batch_stats"]["BatchNorm_1"]["mean"]).max() > 0
    assert "batch_stats" not in network.Projector(dim=3).init(jax.random.key(0), x)


def test_momentum_keys_are_of_slow_weights_with_statistics_of_their_own_and_no_gradient():
    """Two steps, written out."""
    parts, tx = ("backbone", "projector", "head"), optax.sgd(0.5)
    outputs, extra = encoding.outputs(NETWORK, ("projector",)), momentum.extra(0.75)
    term = lambda z, logits, labels: ((z[:, 0] - z[:, 3]) ** 2).sum()
    keys_of = momentum.keys(NETWORK, encoding.together, outputs)
    step = make_step(NETWORK, tx, lambda *of: VIEWS, {"loss": (1.0, term)}, extra=extra, keys_of=keys_of)
    batch, key = state.Batch(VIEWS[:, 0], jnp.zeros(8, jnp.int32), jnp.arange(8)), jax.random.key(0)
    first, rest = state.create(VARIABLES, parts, tx, extra)
    second, metrics = step(first, state.Frozen(rest), batch, key)
    z = lambda params: encoding.together(NETWORK, {**VARIABLES, "params": params}, VIEWS, True, outputs)[1].reshape(
        8, 2, 4
    )
    loss = lambda params, keys: float(((z(params)[:, 0] - z(keys)[:, 1]) ** 2).sum())
    assert float(metrics["loss"][0] / 8) == pytest.approx(loss(first.params, first.params), rel=1e-4)
    kept = second.extra["momentum"]
    slow = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, first.params, second.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), kept["params"], slow)
    np.testing.assert_allclose(
        kept["batch_stats"]["backbone"]["mean"], second.batch_stats["backbone"]["mean"], rtol=1e-5
    )
    _, metrics = step(second, state.Frozen(rest), batch, key)
    assert float(metrics["loss"][0] / 8) == pytest.approx(loss(second.params, slow), rel=1e-4)
    fixed = lambda params: ((z(params)[:, 0] - jax.lax.stop_gradient(z(first.params))[:, 1]) ** 2).sum()
    moved = jax.tree.map(lambda p, g: p - 0.5 * g, first.params, jax.grad(fixed)(first.params))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), second.params, moved)


def test_the_cosine_of_joined_outputs_is_the_mean_of_their_cosines():
    cosine = lambda a, b: (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    x, y = VIEWS[:, 0].reshape(8, 4), VIEWS[:, 1].reshape(8, 4)
    outputs = encoding.outputs(NETWORK, ("backbone", "projector"))
    ((h, g), _), ((k, f), _) = outputs(VARIABLES, x, False), outputs(VARIABLES, y, False)
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


def test_of_parts_of_a_batch_nothing_is_kept_for_the_gradient_but_images_and_weights():
    net, views = network.Network("tiny", num_classes=3, width=4), jax.ShapeDtypeStruct((8, 2, 8, 8, 1), jnp.float32)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)), False))
    kept = {}
    for count in (1, 4):
        encode = encoding.in_chunks(encoding.together, count)

        def backward(variables, views, encode=encode):
            z = lambda params: encode(
                net, {**variables, "params": params}, views, True, encoding.outputs(net, ("projector",))
            )[1]
            return jax.vjp(z, variables["params"])[1]

        kept[count] = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(backward, variables, views)))
    assert kept[4] < 0.5 * kept[1]
