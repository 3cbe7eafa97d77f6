"""The steps on a network small enough to be checked by hand, and the promises a state makes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from clead_jax.core.batches import example_keys
from clead_jax.losses.parse import named_loss
from clead_jax.training import encoding, optimizers, state, views
from clead_jax.training.step import make_step


class Tiny(nn.Module):
    """A one-layer network with the methods of `models.Network`."""

    def setup(self):
        self.backbone, self.norm = nn.Dense(6), nn.BatchNorm(use_running_average=False, name="backbone_norm")
        self.projector, self.head = nn.Dense(4), nn.Dense(3)

    def features(self, x, train):
        h = self.backbone(x.reshape(len(x), -1))
        return nn.tanh(h)

    def project(self, h):
        return self.projector(h)

    def classify(self, h):
        return self.head(h)

    def logits(self, x, train):
        return self.classify(self.features(x, train))

    def embed(self, x, train):
        return self.project(self.features(x, train))

    def __call__(self, x, train):
        h = self.features(x, train)
        return self.project(h), self.classify(h)


@pytest.fixture
def setting():
    network = Tiny()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 2, 2, 1)).astype(np.uint8)
    labels = rng.integers(0, 3, 12).astype(np.int32)
    variables = network.init(jax.random.key(0), images[:1] / 255.0, False)
    return network, variables, jnp.asarray(images), jnp.asarray(labels)


def plain(keys, images):
    return images.astype(jnp.float32) / 255


def begin(variables, trained, tx, images, labels, reference=None):
    s, rest = state.create(variables, trained, tx)
    return s, (state.Frozen(rest, reference), images, labels)


CROSS_ENTROPY = {"loss": (1.0, named_loss("cross_entropy", {}))}


def supervised_step(network, tx, attack="clean", terms=CROSS_ENTROPY):
    """The step of every supervised stage, on rows of resident data."""
    return state.gathered(make_step(network, tx, views.make_views((attack,), views.online(network), plain), terms))


def online_step(network, tx, make_views, loss):
    """The step of phase 1."""
    terms = {"loss": (1.0, lambda z, logits, labels: loss(z, labels))}
    return state.gathered(make_step(network, tx, make_views, terms, online=True))


def test_split_and_variables_are_inverse(setting):
    _, variables, _, _ = setting
    mine, rest = state.split(variables, ("head",))
    assert set(mine["params"]) == {"head"} and "head" not in rest["params"]
    chex.assert_trees_all_equal(state.variables(**mine, rest=rest)["params"], variables["params"])


def test_supervised_step_is_one_step_of_sgd_on_the_mean_cross_entropy(setting):
    network, variables, images, labels = setting
    tx = optax.sgd(0.5)
    s, frozen = begin(variables, ("backbone", "head"), tx, images, labels)
    step = supervised_step(network, tx)
    index = jnp.arange(8)
    new, metrics = step(s, frozen, index, jax.random.key(1))

    def loss(params):
        logits = network.apply({"params": params}, plain(None, images[index]), True, method="logits")
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels[index]).mean()

    grads = jax.grad(loss)(variables["params"])
    expected = variables["params"]["backbone"]["kernel"] - 0.5 * grads["backbone"]["kernel"]
    np.testing.assert_allclose(new.params["backbone"]["kernel"], expected, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"][0] / metrics["loss"][1], loss(variables["params"]), rtol=1e-6)
    assert "projector" not in new.params and int(new.step) == 1


def test_probe_moves_the_head_alone(setting):
    network, variables, images, labels = setting
    tx = optax.adam(0.1)
    s, frozen = begin(variables, ("head",), tx, images, labels)
    new, _ = supervised_step(network, tx)(s, frozen, jnp.arange(8), jax.random.key(1))
    assert set(new.params) == {"head"}
    assert not jnp.array_equal(new.params["head"]["kernel"], variables["params"]["head"]["kernel"])


def test_supervised_step_trains_on_what_the_attack_returns(setting):
    network, variables, images, labels = setting
    tx = optax.sgd(0.5)
    s, frozen = begin(variables, ("backbone", "head"), tx, images, labels)
    black = supervised_step(network, tx, lambda forward, x, y, k: jnp.zeros_like(x))
    new, _ = black(s, frozen, jnp.arange(8), jax.random.key(1))
    np.testing.assert_array_equal(
        new.params["backbone"]["kernel"], s.params["backbone"]["kernel"]
    )  # no input, no gradient


def sum_of_squares(z, labels):
    return (z**2).sum(-1).mean()


def test_online_head_learns_and_never_moves_the_encoder(setting):
    network, variables, images, labels = setting
    sgd = optimizers.Settings(schedule="constant", lr=0.1, momentum=0.0, online_lr=0.1)
    tx = optimizers.make(sgd, 10, 1)
    s, frozen = begin(variables, ("backbone", "projector", "head"), tx, images, labels)
    both = lambda state, v, reference, batch, keys: jnp.stack([plain(None, batch.images)] * 2, 1)
    nothing = online_step(network, tx, both, lambda z, labels: 0.0 * z.sum())
    new, _ = nothing(s, frozen, jnp.arange(8), jax.random.key(1))
    np.testing.assert_array_equal(new.params["backbone"]["kernel"], s.params["backbone"]["kernel"])
    assert not jnp.array_equal(new.params["head"]["kernel"], s.params["head"]["kernel"])
    new, _ = online_step(network, tx, both, sum_of_squares)(s, frozen, jnp.arange(8), jax.random.key(1))
    assert not jnp.array_equal(new.params["backbone"]["kernel"], s.params["backbone"]["kernel"])


def batch_of(images, labels):
    index = jnp.arange(len(images))
    return state.Batch(images, labels, index), example_keys(jax.random.key(0), index)


def test_the_online_head_learns_from_known_labels_alone(setting):
    """Its step on a batch with unknown labels is that on the others; the encoder's own loss sees all of them."""
    network, variables, images, labels = setting
    made = views.make_views(("clean",), views.online(network), plain)
    step = online_step(network, optax.sgd(0.1), made, lambda z, labels: (z**2).mean())
    unknown = jnp.where(jnp.arange(12) < 4, -1 - jnp.arange(12), labels)

    def head(labels, index):
        start, resident = begin(variables, ("backbone", "projector", "head"), optax.sgd(0.1), images, labels)
        new, metrics = step(start, resident, jnp.arange(*index), jax.random.key(0))
        return new.params["head"], metrics["online_accuracy"]

    (some, seen), (known, own) = head(unknown, (0, 12)), head(labels, (4, 12))
    chex.assert_trees_all_close(some, known, atol=1e-6)
    assert seen[1] == own[1] == 8 and seen[0] == own[0]
    none, (hits, count) = head(-1 - jnp.arange(12), (0, 12))
    chex.assert_trees_all_equal(none, variables["params"]["head"])
    assert hits == 0 and count > 0


def test_a_neighbour_is_drawn_among_the_rows_that_are_named(setting):
    network, variables, images, labels = setting
    near = jnp.asarray((np.arange(12)[:, None] + [1, 2]) % 12, jnp.int32)
    show = lambda state, frozen, batch, key: batch.neighbours
    resident, index = state.Resident(None, images, labels, neighbours=near), jnp.arange(12)
    drawn = [np.asarray(state.gathered(show)(None, resident, index, jax.random.key(n))) for n in range(12)]
    which = [(each[:, None] == images[near]).all((2, 3, 4)) for each in drawn]
    assert np.any(which, axis=2).all() and (np.any(which, axis=0).sum(1) == 2).all()  # one of them, now this, now that
    some = state.gathered(show)(None, resident, index[3:5], jax.random.key(0))
    np.testing.assert_array_equal(some, drawn[0][3:5])
    draw = views.Draw(lambda keys, images, strength: plain(keys, images), of_neighbour=True)
    made = views.make_views(("clean", draw), views.online(network), plain)
    batch = state.Batch(images, labels, index, neighbours=images[near[:, 0]])
    begun, _ = begin(variables, ("head",), optax.sgd(0.1), images, labels)
    found = made(begun, variables, None, batch, jax.random.split(jax.random.key(0), 12))
    np.testing.assert_allclose(found[:, 1], images[near[:, 0]] / 255, atol=1e-6)


def test_views_are_batch_first_and_in_order(setting):
    network, variables, images, labels = setting
    darker = lambda forward, x, target, keys: x / 2
    make = views.make_views(("clean", darker, "augmented"), views.online(network), plain)
    stack = make(None, variables, None, *batch_of(images, labels))
    assert stack.shape == (12, 3, 2, 2, 1)
    np.testing.assert_array_equal(stack[:, 1], stack[:, 0] / 2)
    np.testing.assert_array_equal(stack[:, 0], plain(None, images))


def test_a_share_of_the_batches_is_attacked_each_as_a_whole(setting):
    network, variables, images, labels = setting
    darker, x = lambda forward, x, target, keys: x / 2, plain(None, images)
    make = lambda share, keys: views.make_views((darker,), views.online(network), plain, attacked=share)(
        None, variables, None, batch_of(images, labels)[0], keys
    )
    found = []
    for number in range(12):
        keys = example_keys(jax.random.key(number), jnp.arange(12))
        view = make(0.5, keys)[:, 0]
        found.append(bool((view == x / 2).all()))
        assert found[-1] or bool((view == x).all())
        assert bool((make(0.0, keys)[:, 0] == x).all() and (make(1.0, keys)[:, 0] == x / 2).all())
    assert 2 < sum(found) < 10


def test_stored_views_are_those_of_the_rows_augmented_by_a_draw_of_their_own(setting):
    network, variables, images, labels = setting
    seen = []
    shift = lambda keys, images: seen.append(keys) or plain(keys, images)
    make = views.make_views(("clean", views.Stored(1), views.Stored(0)), views.online(network), shift)
    stored = jnp.stack([images // 2, images // 3], axis=1)
    index = jnp.array([3, 5])
    step = lambda s, frozen, batch, key: make(None, variables, None, batch, key)
    keys = example_keys(jax.random.key(0), index)
    stack = state.gathered(step)(None, (None, images, labels, stored), index, keys)
    np.testing.assert_array_equal(stack[:, 1], plain(None, images[index] // 3))
    np.testing.assert_array_equal(stack[:, 2], plain(None, images[index] // 2))
    drawn = {tuple(np.asarray(jax.random.key_data(keys)).ravel()) for keys in seen}
    assert len(drawn) == 3


def test_what_the_views_attack_is_a_switch(setting):
    network, variables, images, labels = setting
    x = plain(None, images)
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    logits, target = views.online(network)(variables, other, views.Base(x), labels)
    np.testing.assert_array_equal(logits(x), network.apply(variables, x, False, method="logits"))
    logits, target = views.of_reference(network)(variables, other, views.Base(x), labels)
    np.testing.assert_array_equal(logits(x), network.apply(other, x, False, method="logits"))
    assert jnp.array_equal(target, labels)


def test_contrastive_target_is_instance_discrimination(setting):
    network, variables, images, labels = setting
    x = plain(None, images)
    dot = lambda a, b: a @ b.T
    logits, target = views.contrastive(network, dot, 0.5, by_class=False)(variables, None, views.Base(x), labels)
    z = network.apply(variables, x, False, method="embed")
    np.testing.assert_allclose(logits(x), z @ z.T / 0.5, rtol=1e-5)
    assert jnp.array_equal(target, jnp.arange(12))
    logits, _ = views.contrastive(network, dot, 0.5, by_class=True)(variables, None, views.Base(x), labels)
    same = (labels[:, None] == labels) & ~jnp.eye(12, dtype=bool)
    assert bool((jnp.isneginf(logits(x)) == same).all())


def test_attacks_start_from_the_first_view_that_is_none(setting):
    network, variables, images, labels = setting
    half = views.Draw(lambda keys, images, strength: plain(keys, images) / 2)
    same = lambda forward, x, target, keys: x
    begun, _ = state.create(variables, ("backbone",), optax.sgd(0.1))
    make = lambda *of: views.make_views(of, views.online(network), plain)(begun, variables, None, batch, keys)
    (batch, keys), x = batch_of(images, labels), plain(None, images)
    np.testing.assert_array_equal(make(same, half, "clean"), jnp.stack([x / 2, x / 2, x], 1))
    np.testing.assert_array_equal(make(same), x[:, None])


def test_the_partner_target_is_nt_xent_of_the_attacked_row(setting):
    """The first B rows of NT-Xent over 2 B embeddings (RoCL), candidate by candidate; keys give no gradient."""
    network, variables, images, labels = setting
    x, second = plain(None, images), plain(None, images[::-1])
    dot = lambda a, b: a @ b.T
    base = views.Base(x, (x, second))
    logits, target = views.partner(network, dot, 0.5)(variables, None, base, labels)
    embed = lambda images: np.asarray(network.apply(variables, images, False, method="embed"))
    z, others = embed(x / 3), embed(second)
    loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits(x / 3), target)
    for i in range(12):
        scores = [z[i] @ others[j] / 0.5 for j in range(12)] + [z[i] @ z[j] / 0.5 for j in range(12) if j != i]
        assert float(loss[i]) == pytest.approx(np.log(np.sum(np.exp(scores))) - scores[i], rel=1e-4)
    of_first = jax.grad(lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(logits(x), target)[0])(x / 3)
    assert np.abs(of_first[0]).max() > 0 and not np.asarray(of_first[1:]).any()
    with pytest.raises(ValueError, match="two views that are not attacked"):
        views.partner(network, dot, 0.5)(variables, None, views.Base(x, (x,)), labels)


def test_the_pairs_target_is_nt_xent_of_both_attacked_views_with_gradient_on_both_sides(setting):
    """Row 2 i and 2 i + 1 are the views of image i (ACL), candidate by candidate."""
    network, variables, images, labels = setting
    x, dot = plain(None, jnp.concatenate([images, images[::-1]])), lambda a, b: a @ b.T
    logits, target = views.pairs(network, dot, 0.5)(variables, None, views.Base(x[:12], (x[:12], x[12:])), labels)
    losses = lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(logits(x), target)
    z = np.asarray(network.apply(variables, x, False, method="embed"))
    for i in range(24):
        partner = i + 1 if i % 2 == 0 else i - 1
        scores = {j: z[i] @ z[j] / 0.5 for j in range(24) if j != i}
        expected = np.log(np.sum(np.exp(list(scores.values())))) - scores[partner]
        assert float(losses(x)[i]) == pytest.approx(expected, rel=1e-4)
    assert np.abs(jax.grad(lambda x: losses(x)[0])(x)[1:]).max() > 0


def test_two_attacks_are_one_where_they_are_made_in_pairs(setting):
    """The attack sees both images of every pair, begins at the views before it, and what it makes keeps its place."""
    network, variables, images, labels = setting
    seen, x = [], plain(None, images)
    shifted = lambda by: views.Draw(lambda keys, images, strength: plain(keys, images) * by * strength)
    attack = lambda forward, x, target, keys: (
        seen.append((x, target, keys)) or x + jnp.arange(len(x))[:, None, None, None]
    )
    target = views.pairs(network, lambda a, b: a @ b.T, 0.5)
    begun, _ = state.create(variables, ("backbone",), optax.sgd(0.1))
    batch, keys = batch_of(images, labels)
    strength = views.falling(every=2, epochs=8, steps_per_epoch=5)
    make = views.make_views(
        ("clean", attack, attack), target, plain, starts=(shifted(0.5), shifted(0.25)), strength=strength, in_pairs=True
    )
    made = make(begun.replace(step=jnp.int32(25)), variables, None, batch, keys)  # epoch 5: strength 1/2
    np.testing.assert_allclose(seen[0][0].reshape(12, 2, 2, 2, 1), jnp.stack([x / 4, x / 8], axis=1), rtol=1e-6)
    assert len(np.unique(jax.random.key_data(seen[0][2]), axis=0)) == 24
    np.testing.assert_allclose(made[:, 0], x)
    np.testing.assert_allclose(made[3, 1], x[3] / 4 + 6, rtol=1e-6)
    np.testing.assert_allclose(made[3, 2], x[3] / 8 + 7, rtol=1e-6)


def test_strength_falls_by_steps_from_1_and_never_reaches_0():
    strength = views.falling(every=50, epochs=1000, steps_per_epoch=3)
    assert [float(strength(np.int32(3 * epoch))) for epoch in (0, 49, 50, 999)] == pytest.approx([1, 1, 0.95, 0.05])
    assert views.falling(0, 10, 3)(29) == 1.0


def test_the_distance_target_is_the_teachers_or_the_students_own_embedding(setting):
    network, variables, images, labels = setting
    plain_, start = plain(None, images), plain(None, images) / 2
    other = jax.tree.map(lambda leaf: leaf + 1, variables)
    both = encoding.outputs(network, ("backbone", "projector"))
    target = lambda *by: views.distance(network, both, by)(variables, other, views.Base(plain_, (start,)), labels)
    unit = lambda z: z / np.linalg.norm(z, axis=-1, keepdims=True)
    heads = lambda of, x: [unit(network.apply(of, x, False, method=name)) for name in ("features", "embed")]
    own, theirs = heads(variables, start), heads(other, plain_)
    outputs, stay = target(False, True)
    np.testing.assert_allclose(stay, np.concatenate([own[0], theirs[1]], -1), atol=1e-5)
    np.testing.assert_allclose(outputs(start), np.concatenate(own, -1), atol=1e-5)
    np.testing.assert_allclose(target(True, True)[1], np.concatenate(theirs, -1), atol=1e-5)


def test_example_keys_follow_the_example_not_the_batch():
    key = jax.random.key(3)
    data = lambda index: jax.random.key_data(example_keys(key, jnp.asarray(index)))
    np.testing.assert_array_equal(data([5, 7])[1], data([7])[0])


def test_schedules():
    rate = optimizers.rate("cosine", 0.4, 100, 10)
    assert (
        float(rate(0)) == 0 and float(rate(10)) == pytest.approx(0.4) and float(rate(100)) == pytest.approx(0, abs=1e-6)
    )
    assert float(optimizers.rate("constant", 0.4, 100, 0)(77)) == pytest.approx(0.4)
    with pytest.raises(ValueError, match="cosine, constant"):
        optimizers.rate("step", 0.4, 100, 0)


@pytest.mark.parametrize("vectors", [False, True])
def test_lars_steps_are_as_long_as_their_layer(vectors):
    """rate * trust * |w| along gradient + decay * w; with momentum the last step, its rate in it, is added."""
    text = f"lars(trust=0.1,vectors={str(vectors).lower()})"
    own = optimizers.Settings(text, lr=2.0, momentum=0.5, weight_decay=0.01, schedule="constant")
    tx, params = optimizers.make(own, 10, 1), {"w": jnp.array([[3.0, 4.0]]), "b": jnp.array([2.0])}
    grads = {"w": jnp.array([[0.0, 1.0]]), "b": jnp.array([0.5])}
    kept, last = tx.init(params), jax.tree.map(jnp.zeros_like, params)
    for _ in range(2):
        updates, kept = tx.update(grads, kept, params)
        for name, adapted in (("w", True), ("b", vectors)):
            slope = grads[name] + 0.01 * params[name] if adapted else grads[name]
            length = 0.1 * jnp.linalg.norm(params[name]) / jnp.linalg.norm(slope) if adapted else 1.0
            expected = -2.0 * length * slope + 0.5 * last[name]
            np.testing.assert_allclose(updates[name], expected, rtol=1e-5)
        last, params = updates, optax.apply_updates(params, updates)


def test_an_optimizers_setting_is_checked():
    wrong = {"lars(trust=0)": "trust must lie", "sgd(trust=1)": "no setting 'trust'", "sdg": "known: adam"}
    for text, said in wrong.items():
        with pytest.raises(ValueError, match=said):
            optimizers.make(optimizers.Settings(text), 10, 1)


def test_decay_apart_from_the_gradient_is_a_share_of_the_weights():
    own = optimizers.Settings("adamw", lr=0.1, weight_decay=0.3, schedule="constant")
    tx, params = optimizers.make(own, 10, 1), jnp.array([2.0])
    np.testing.assert_allclose(tx.update(jnp.zeros(1), tx.init(params), params)[0], [-0.1 * 0.3 * 2.0], rtol=1e-6)


@pytest.mark.parametrize("warmup", [0, 3])
def test_a_stepped_rate_falls_after_its_epochs(warmup):
    rate = optimizers.rate("steps(epochs=2:3.5,factor=0.1:0.5)", 0.4, 100, warmup, steps_per_epoch=4)
    found = [float(rate(step)) for step in (7, 8, 13, 14, 99)]
    assert found == pytest.approx([0.4, 0.04, 0.04, 0.02, 0.02])
    assert float(optimizers.rate("steps(epochs=2:4)", 0.4, 100, 0, 1)(4)) == pytest.approx(0.004)


@pytest.mark.parametrize("text", ["steps", "steps(epochs=3:2)", "steps(epochs=2:3,factor=1:1:1)"])
def test_what_is_no_stepped_rate(text):
    with pytest.raises(ValueError, match="write rising epochs"):
        optimizers.rate(text, 0.4, 100, 0)


def test_the_attack_in_training_has_keys_of_its_own(setting):
    """Not those of the crop: an image's random start must not follow from how it was cropped."""
    network, variables, images, labels = setting
    seen = []
    attack = lambda forward, x, target, keys: seen.append(keys) or x
    batch, keys = batch_of(images, labels)
    views.make_views((attack,), views.online(network), plain)(None, variables, None, batch, keys)
    crop = jax.vmap(lambda key: jax.random.split(key, 4)[0])(keys)
    start = jax.vmap(lambda key: jax.random.fold_in(key, 0))(seen[0])
    different = jax.random.key_data(start) != jax.random.key_data(crop)
    assert different.any(-1).all() and (jax.random.key_data(seen[0]) != jax.random.key_data(keys)).any(-1).all()


def test_an_unknown_view_is_refused(setting):
    with pytest.raises(ValueError, match="unknown view 'dark': known: clean, augmented"):
        views.make_views(("dark",), views.online(setting[0]), plain)
