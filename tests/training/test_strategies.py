"""FAT's schedule and LAS-AT's network: what they choose, what the network learns, and when they are PGD training."""

import functools
import importlib
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from reading import same

from clead_jax import attacks
from clead_jax.core.registry import ATTACKS
from clead_jax.losses.parse import named_loss
from clead_jax.training import averaging, las_at, state, strategies, views
from clead_jax.training.step import make_step


class Tiny(nn.Module):
    """One layer and a head, with the fields and methods of `models.Network` that a strategy uses."""

    num_classes: int = 3
    backbone: str = "tiny"

    def setup(self):
        self.encoder, self.projector, self.head = nn.Dense(6, name="backbone"), nn.Dense(2), nn.Dense(self.num_classes)

    def features(self, x, train):
        return nn.tanh(self.encoder(x.reshape(len(x), -1)))

    def project(self, h):
        return self.projector(h)

    def classify(self, h):
        return self.head(h)

    def logits(self, x, train):
        return self.classify(self.features(x, train))

    def __call__(self, x, train):
        h = self.features(x, train)
        return self.project(h), self.classify(h)


NETWORK, RNG = Tiny(), np.random.default_rng(0)
IMAGES = jnp.asarray(RNG.integers(0, 256, (8, 2, 2, 1)).astype(np.uint8))
LABELS = jnp.asarray(RNG.integers(0, 3, 8).astype(np.int32))
VARIABLES = NETWORK.init(jax.random.key(0), IMAGES / 255.0, False)
BATCH = state.Batch(IMAGES, LABELS, jnp.arange(8))
LR, DECAY = 0.5, 0.1
ONE_ACTION = "las_at(eps=0.2:0.2:1,step_size=0.05:0.05:1,steps=4:4,attack=pgd(steps=2))"
PLAIN = ATTACKS["training_pgd"].config(eps=0.2, step_size=0.05, steps=4)


@pytest.fixture(autouse=True)
def rolled_loops(monkeypatch):
    """The model here has no convolutions: loops stay rolled, and compile ten times faster."""
    monkeypatch.setattr(importlib.import_module("clead_jax.attacks.run"), "MOST_UNROLLED", 0)


def attack_of(text):
    _, settings = text.removesuffix(")").split("(")
    cfg = ATTACKS["pgd"].config(eps=0.1, step_size=0.05, steps=int(settings.removeprefix("steps=")))
    return lambda *given: attacks.run(
        ATTACKS["pgd"].value, given[0], attacks.OBJECTIVES["cross_entropy"], *given[1:], cfg
    )


def built(text):
    augment = lambda keys, images: images.astype(jnp.float32) / 255
    around = strategies.Surroundings(
        NETWORK,
        (2, 2, 1),
        augment,
        attack_of,
        lambda text: (3, 3),
        optax.constant_schedule,
        LR,
        DECAY,
        4,
        jax.random.key(5),
    )
    return strategies.strategy(text, around), augment


@functools.cache
def compiled(text):
    """-> the state before the first step under a strategy, and a step of training."""
    strategy, augment = built(text) if text else (strategies.Strategy(lambda *given: {}), built("friendly")[1])

    def attack(forward, x, target, keys, **chosen):
        cfg, entropy = PLAIN.__class__(**{**vars(PLAIN), **chosen}), attacks.OBJECTIVES["cross_entropy"]
        return attacks.run(ATTACKS["training_pgd"].value, forward, entropy, x, target, keys, cfg)

    made = views.make_views((attack,), views.online(NETWORK), augment, strategy.choose)
    terms, tx = {"loss": (1.0, named_loss("cross_entropy", {}))}, optax.sgd(LR)
    step = make_step(NETWORK, tx, made, terms, extra=strategy.extra, after=strategy.after)
    begun, rest = state.create(VARIABLES, ("backbone", "projector", "head"), tx, strategy.extra)
    frozen = state.Frozen(rest)
    return begun, jax.jit(lambda now, key: step(now, frozen, BATCH, key))


def step_of(text, number=0):
    """-> the states before and after step `number` under a strategy, and the metrics."""
    begun, step = compiled(text)
    begun = begun.replace(step=jnp.int32(number))
    return begun, *step(begun, jax.random.key(1))


def test_one_action_is_pgd_training_to_the_bit():
    _, plain, _ = step_of("")
    begun, found, metrics = step_of(ONE_ACTION)
    assert same(plain.params, found.params) and not same(begun.params, found.params)
    assert {name: float(total / count) for name, (total, count) in metrics.items() if name.startswith("chosen")} == (
        pytest.approx({"chosen_eps": 0.2, "chosen_step_size": 0.05, "chosen_tau": 4})
    )


def test_friendly_with_patience_for_all_steps_is_pgd_training_to_the_bit():
    _, plain, _ = step_of("")
    assert same(plain.params, step_of("friendly(tau=4)")[1].params)
    assert not same(plain.params, step_of("friendly")[1].params)


@pytest.mark.parametrize(("step", "tau"), [(0, 1), (7, 1), (8, 2), (11, 2), (12, 3), (99, 3)])
def test_patience_grows_after_the_epochs_that_are_named(step, tau):
    chosen = built("friendly(tau=1,later=2:3)")[0].choose(state.TrainState(jnp.int32(step), {}, {}, (), {}), None, None)
    assert chosen["counts"] == "errors" and int(chosen["tau"]) == tau


CHOICE = "las_at(eps=0.1:0.3:3,step_size=0.02:0.08:2,steps=1:4,every=3,lr=0.7,clip={clip},attack=pgd(steps=2))"


def test_every_image_is_given_what_was_drawn_for_it():
    """Draws follow the probabilities of the network, and differ between images and settings."""
    chooser = las_at.policy(strategies.settings(CHOICE.format(clip=1)), NETWORK)
    x = jnp.broadcast_to(IMAGES[:1] / 255.0, (4000, 2, 2, 1))
    params = chooser.network.init(jax.random.key(3), x[:1], True, method=chooser.network.logits)["params"]
    drawn = chooser.draw(params, x, jax.random.split(jax.random.key(4), 4000))
    logs = chooser.log_probabilities(params, x[:1])
    assert {name: len(values) for name, values in chooser.actions.items()} == {"eps": 3, "step_size": 2, "tau": 4}
    for name, index in drawn.items():
        shares = np.bincount(index, minlength=len(chooser.actions[name])) / 4000
        np.testing.assert_allclose(shares, np.exp(logs[name][0]), atol=0.03)
    assert abs(np.corrcoef(drawn["eps"], drawn["tau"])[0, 1]) < 0.05


def test_the_network_follows_the_policy_gradient_of_the_reward():
    text = CHOICE.format(clip=1e6)
    begun, new, _ = step_of(text)
    cfg = strategies.settings(text)
    chooser, before, x = las_at.policy(cfg, NETWORK), begun.extra["strategy"], IMAGES / 255.0
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(BATCH.index)
    drawn = chooser.draw(before, x, keys)
    chosen = {name: jnp.asarray(chooser.actions[name])[index] for name, index in drawn.items()}

    # The attacked images, the model one step ahead, and the reward, each by itself.
    forward = lambda params, images: NETWORK.apply({"params": params}, images, True, method="logits")
    start = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    settings = PLAIN.__class__(**{**vars(PLAIN), **chosen, "counts": "steps"})
    entropy = attacks.OBJECTIVES["cross_entropy"]
    target = lambda images: forward(VARIABLES["params"], images)
    x_adv = jax.jit(lambda: attacks.run(ATTACKS["training_pgd"].value, target, entropy, x, LABELS, start, settings))()
    loss = lambda params: entropy(forward(params, x_adv), LABELS).mean()
    gradient = jax.jit(jax.grad(loss))(VARIABLES["params"])
    ahead = jax.tree.map(lambda w, g: w - LR * (g + DECAY * w), VARIABLES["params"], gradient)
    score_keys = jax.vmap(lambda key: jax.random.fold_in(key, las_at._SCORE))(keys)
    attacked = jax.jit(lambda: attack_of(cfg.attack)(lambda images: forward(ahead, images), x, LABELS, score_keys))()
    right = lambda images: np.mean(np.argmax(forward(ahead, images), -1) == np.asarray(LABELS))
    reward = float(loss(VARIABLES["params"])) + 4 * right(attacked) + 2 * right(x)

    def surprise(params):
        total = 0.0
        logits = chooser.network.apply({"params": params}, x, True, method="logits")
        for image, (name, first, size) in itertools.product(
            range(8), [("eps", 0, 3), ("step_size", 3, 2), ("tau", 5, 4)]
        ):
            head = logits[image, first : first + size]
            total -= head[drawn[name][image]] - jnp.log(jnp.exp(head).sum())
        return total / 8

    gradient = jax.tree.map(lambda g: reward * g, jax.jit(jax.grad(surprise))(before))
    expected = jax.tree.map(lambda w, g: w - 0.7 * g, before, gradient)
    for a, b in zip(jax.tree.leaves(new.extra["strategy"]), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert not same(before, new.extra["strategy"])


def test_the_network_learns_in_every_third_step_only_and_not_by_more_than_its_clip():
    found = {number: step_of(CHOICE.format(clip=0.01), number) for number in (1, 2, 3)}
    assert [same(begun.extra, new.extra) for begun, new, _ in found.values()] == [True, True, False]
    begun, new, _ = found[3]
    moved = jax.tree.map(jnp.subtract, begun.extra, new.extra)
    assert float(optax.global_norm(moved)) == pytest.approx(0.7 * 0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hard", "unknown strategy 'hard': known: friendly, las_at"),
        ("friendly(tau=-1)", "tau must not be negative"),
        ("las_at(eps=0.1:0.2)", "eps must be lowest:highest:how many, got 0.1:0.2"),
        ("las_at(steps=5:3)", "steps must be lowest:highest, got 5:3"),
        ("las_at(every=0)", "every must be at least 1"),
    ],
)
def test_what_is_no_strategy(text, said):
    with pytest.raises(ValueError, match=said):
        strategies.settings(text)


def test_averages_and_a_strategy_share_the_state():
    both = state.together(averaging.extra("ema(decay=0.5)", 10, 5), built(ONE_ACTION)[0].extra)
    begun, _ = state.create(VARIABLES, ("head",), optax.sgd(LR), both)
    grads = jax.tree.map(jnp.ones_like, begun.params)
    new = state.apply_gradients(begun, optax.sgd(LR), grads, {}, both)
    assert set(new.extra) == {"mean", "taken", "strategy"} and list(both.weights(new.extra)) == ["ema"]
    assert same(new.extra["strategy"], begun.extra["strategy"]) and not same(new.extra["mean"], begun.extra["mean"])
