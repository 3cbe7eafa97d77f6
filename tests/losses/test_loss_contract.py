"""What every registered loss owes: its oracle's value, right gradients, symmetry, honest masks, finite on odd batches.

All of it applies to a new loss by itself. The oracle, slow loops in float64, comes with the loss: in ORACLES here, or
for a loss from elsewhere as `@LOSSES.register("mine", Config, oracle=...)`.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.test_util import check_grads
from marks import first_of_each, slowly

import clead_jax.losses  # noqa: F401
from clead_jax.core.registry import LOSSES
from clead_jax.losses.acl import ACLConfig, AIRConfig
from clead_jax.losses.contrastive import POSITIVES, SIMILARITIES, ContrastiveConfig, SupConConfig
from clead_jax.losses.distillation import DistillationConfig
from clead_jax.losses.margin import CosineConfig, HingeConfig, PairwiseConfig
from clead_jax.losses.pairing import PAIRINGS

LABELS = np.array([0, 1, 0, 2, 1, 0, 3, 1])


def contrastive_oracle(z, labels, cfg, where):
    """Eq. 2 and its relatives, one anchor and one candidate at a time; keys, if there are any, behind the views."""
    batch, views = len(z), z.shape[1] // (1 + cfg.keys)
    losses, key = np.zeros(z.shape[:2]), z[:, -views:]
    columns = range(views) if cfg.pairing == "all" else range(1, views)
    weights = dict(zip(columns, cfg.weights or [1] * len(columns), strict=True))
    images = [j for j in range(batch) if where[j]]
    for i, v in itertools.product(images, columns):
        ways = [(v, 0)] if cfg.pairing == "all" else [(0, v), (v, 0)][: 1 + cfg.keys]
        for a, other in ways:
            own = [(j, a) for j in images if j != i] if cfg.pairing == "simclr_anchor" else []
            candidates = [(j, other) for j in images] + own
            if cfg.pairing == "all":
                candidates = [(j, w) for j in images for w in range(views) if (j, w) != (i, v)]
            same = labels == labels[i] if cfg.positives == "class" else np.arange(batch) == i
            similar = lambda c, z=z[i, a], s=same: oracle_similarity(z, key[c], cfg.similarity) - cfg.margin * s[c[0]]
            scores = {c: similar(c) / cfg.temperature for c in candidates}
            own = [score for c, score in scores.items() if same[c[0]]]
            total = denominator(own, [score for c, score in scores.items() if not same[c[0]]], cfg)
            losses[i, v] += -np.mean([s - np.log(total) for s in own]) / len(ways) if own else 0
        losses[i, v] *= weights[v] / sum(weights.values())
    return losses


def denominator(own, others, cfg):
    """Of InfoNCE, from the scores of positives and negatives: Robinson et al. over Chuang et al. over the hardest."""
    others = sorted(others)[-cfg.hardest :]
    weights = np.exp(cfg.beta * np.array(others)) / max(np.sum(np.exp(cfg.beta * np.array(others))), 1e-300)
    mean = np.sum(weights * np.exp(others)) - cfg.tau_plus * (np.mean(np.exp(own)) if own else 0)
    lowest = np.exp(-1 / cfg.temperature) if cfg.similarity == "cosine" else 0
    return np.sum(np.exp(own)) + len(others) * max(mean / (1 - cfg.tau_plus), lowest)


def triplet_oracle(z, labels, cfg, where):
    """All negatives of an anchor, or the nearest ones, by squared distances of unit vectors."""
    unit, losses = z / np.linalg.norm(z, axis=-1, keepdims=True), np.zeros(z.shape[:2])
    images, squared = np.flatnonzero(where), lambda a, b: np.sum((a - b) ** 2)
    for i, v in itertools.product(images, range(1, z.shape[1])):
        away = sorted(squared(unit[i, 0], unit[j, v]) for j in images if j != i)
        away = away[: cfg.hardest or None]
        gaps = [max(0, cfg.margin + squared(unit[i, 0], unit[i, v]) - far) for far in away]
        losses[i, v] = np.mean(gaps) / (z.shape[1] - 1)
    return losses


def n_pair_oracle(z, labels, cfg, where):
    losses, images = np.zeros(z.shape[:2]), np.flatnonzero(where)
    for i, v in itertools.product(images, range(1, z.shape[1])):
        anchor, own = z[i, 0], z[i, v]
        others = sum(np.exp(anchor @ z[j, v] - anchor @ own) for j in images if j != i)
        losses[i, v] = (np.log(1 + others) + cfg.l2 / 4 * (anchor @ anchor + own @ own)) / (z.shape[1] - 1)
    return losses


def oracle_similarity(a, b, kind):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b) if kind == "cosine" else -np.linalg.norm(a - b)


def supcon_oracle(z, labels, cfg, where):
    similarity = getattr(cfg, "similarity", "cosine")
    general = ContrastiveConfig(cfg.temperature, similarity, "all", "class", margin=cfg.margin)
    return contrastive_oracle(z, labels, general, where)


def partners(z, labels, where):
    """Every anchor (i, v) in turn with {class: the unit vectors of all other embeddings of that class}."""
    everyone = [(j, w) for j, w in np.ndindex(z.shape[:2]) if where[j]]
    unit = {c: z[c] / np.linalg.norm(z[c]) for c in everyone}
    for anchor in everyone:
        others = [c for c in everyone if c != anchor]
        yield anchor, unit[anchor], {k: [unit[c] for c in others if labels[c[0]] == k] for k in set(labels)}


def pairwise_oracle(z, labels, cfg, where):
    """Hadsell et al., each kind of pair averaged by itself."""
    losses = np.zeros(z.shape[:2])
    for (i, v), a, by_class in partners(z, labels, where):
        pull = [np.linalg.norm(a - b) ** 2 for b in by_class[labels[i]]]
        others = [b for k, members in by_class.items() if k != labels[i] for b in members]
        push = [max(0, cfg.margin - np.linalg.norm(a - b)) ** 2 for b in others]
        losses[i, v] = sum(np.mean(costs) for costs in (pull, push) if costs)
    return losses / z.shape[1]


def hinge_oracle(z, labels, cfg, where):
    """The own class against each other class, by mean cosines."""
    losses = np.zeros(z.shape[:2])
    for (i, v), a, by_class in partners(z, labels, where):
        mean = {k: np.mean([a @ b for b in members]) for k, members in by_class.items() if members}
        own = mean.pop(labels[i], None)
        if own is not None and mean:
            losses[i, v] = np.mean([max(0, cfg.margin - own + other) for other in mean.values()])
    return losses / z.shape[1]


def softmax(z):
    return np.exp(z - z.max()) / np.exp(z - z.max()).sum()


def cross_entropy_oracle(logits, labels, cfg, where):
    losses = np.zeros(logits.shape[:2])
    for i, v in np.ndindex(losses.shape):
        target = cfg.smoothing / logits.shape[2] + (1 - cfg.smoothing) * (np.arange(logits.shape[2]) == labels[i])
        losses[i, v] = -(target * np.log(softmax(logits[i, v]))).sum() * where[i] / losses.shape[1]
    return losses


def trades_oracle(logits, labels, cfg, where):
    losses = np.zeros(logits.shape[:2])
    for i in np.flatnonzero(where):
        clean = softmax(logits[i, 0])
        losses[i, 0] = -np.log(clean[labels[i]])
        for v in range(1, losses.shape[1]):
            kl = (clean * np.log(clean / softmax(logits[i, v]))).sum()
            losses[i, v] = cfg.beta * kl / (losses.shape[1] - 1)
    return losses


def rocl_oracle(z, labels, cfg, where):
    """Both positives of an anchor summed; beside it the same of the second and third view."""
    pairs = ContrastiveConfig(cfg.temperature, pairing="all")
    losses = 2 * contrastive_oracle(z, labels, pairs, where)
    losses[:, 1:] += cfg.weight * contrastive_oracle(z[:, 1:], labels, pairs, where)
    return losses


def distillation_oracle(z, labels, cfg, where):
    """Clean view against the teacher, every attacked one against its anchor; the teacher stands last."""
    cosine = lambda a, b: 1 - oracle_similarity(a, b, "cosine")
    apart = cosine if cfg.distance == "cosine" else lambda a, b: sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    losses = np.zeros(z.shape[:2])
    first = 1 if cfg.clean_weight or cfg.anchor == "student" else 0
    for i in np.flatnonzero(where):
        *views, teacher = z[i]
        for v, view in enumerate(views):
            if v < first:
                losses[i, v] = cfg.clean_weight * apart(view, teacher)
            else:
                anchor = views[0] if cfg.anchor == "student" else teacher
                losses[i, v] = cfg.attacked_weight * apart(view, anchor) / (len(views) - first)
    return losses


def scan_oracle(logits, labels, cfg, where):
    """The consistency of every pair, and the entropy of the mean prediction of the first view, for every image."""
    losses, images = np.zeros(logits.shape[:2]), np.flatnonzero(where)
    mean = np.mean([softmax(logits[i, 0]) for i in images], axis=0)
    for i in images:
        losses[i, 0] = cfg.entropy * (mean * np.log(mean)).sum()
        for v in range(1, logits.shape[1]):
            losses[i, v] = -np.log(softmax(logits[i, 0]) @ softmax(logits[i, v])) / (logits.shape[1] - 1)
    return losses


def mart_oracle(logits, labels, cfg, where):
    losses = np.zeros(logits.shape[:2])
    for i, v in ((i, v) for i in np.flatnonzero(where) for v in range(1, logits.shape[1])):
        p, attacked = softmax(logits[i, 0]), softmax(logits[i, v])
        rival = max(k for k in range(len(p)) if k != labels[i])
        for k in range(len(p)):
            rival = k if k != labels[i] and attacked[k] > attacked[rival] else rival
        bce = -np.log(attacked[labels[i]]) - np.log(1.0001 - attacked[rival] + 1e-12)
        kl = sum(p[k] * (np.log(p[k]) - np.log(attacked[k] + 1e-12)) for k in range(len(p)))
        losses[i, v] = (bce + cfg.beta * kl * (1.0000001 - p[labels[i]])) / (losses.shape[1] - 1)
    return losses


def acl_oracle(z, labels, cfg, where):
    """NT-Xent of the first two and of the last two views, anchor by anchor; keys, if there are any, behind them."""
    views = z.shape[1] // 2 if cfg.keys else z.shape[1]
    moved, losses = cfg.shift * (1 - cfg.strength), np.zeros(z.shape[:2])
    images = np.flatnonzero(where)
    for share, pair in ((1 - moved, (0, 1)), (1 + moved, (views - 2, views - 1))):
        for i, v in itertools.product(images, pair):
            key = {(j, w): z[j, w + (views if cfg.keys else 0)] for j in images for w in pair if (j, w) != (i, v)}
            scores = {c: oracle_similarity(z[i, v], k, "cosine") / cfg.temperature for c, k in key.items()}
            partner = (i, pair[0] + pair[1] - v)
            losses[i, v] = share / 4 * (np.log(np.sum(np.exp(list(scores.values())))) - scores[partner])
    return losses


def air_oracle(z, labels, cfg, where):
    """Twice ACL, and both regularisers over the images of the batch."""
    images, losses = (
        np.flatnonzero(where),
        2 * acl_oracle(z, labels, ACLConfig(cfg.temperature, cfg.shift, cfg.strength), where),
    )
    similar = lambda a, b: np.array([oracle_similarity(z[k, a], z[k, b], "cosine") / cfg.temperature for k in images])
    q = lambda a, b: softmax(similar(a, b))
    for weight, q1, q2 in ((cfg.standard, q(0, 2), q(1, 2)), (cfg.robust, q(3, 0) * q(3, 2), q(4, 1) * q(4, 2))):
        if cfg.air_form == "paper":
            q1, q2 = q1 / q1.sum(), q2 / q2.sum()
        for n, k in enumerate(images):
            losses[k, 2] += (
                weight * len(images) * q2[n] * (np.log(q2[n]) - (np.log(q1[n]) if cfg.air_form == "paper" else q1[n]))
            )
    return losses


ORACLES = {
    "acl": acl_oracle,
    "air": air_oracle,
    "rocl": rocl_oracle,
    "scan": scan_oracle,
    "distillation": distillation_oracle,
    "mart": mart_oracle,
    "cross_entropy": cross_entropy_oracle,
    "trades": trades_oracle,
    "info_nce": contrastive_oracle,
    "supcon": supcon_oracle,
    "triplet": triplet_oracle,
    "n_pair": n_pair_oracle,
    "margin_cosine": supcon_oracle,
    "margin_pairwise": pairwise_oracle,
    "margin_hinge": hinge_oracle,
}

DEFAULTS = [(name, LOSSES[name].config()) for name in LOSSES]
VARIANTS = [
    ("info_nce", ContrastiveConfig(0.5, *choice, weights=(0, 1, 3) if choice[1] == "all" else (1, 3)))
    for choice in itertools.product(SIMILARITIES, PAIRINGS, POSITIVES)
]
NEGATIVES = [
    ("info_nce", ContrastiveConfig(0.5, hardest=3, beta=0.5, tau_plus=0.1)),
    ("info_nce", ContrastiveConfig(0.5, "euclidean", "all", "class", beta=2.0, tau_plus=0.2, keys=True)),
    ("info_nce", ContrastiveConfig(0.5, pairing="simclr_anchor", keys=True)),
]
MARGINS = [
    ("info_nce", ContrastiveConfig(pairing="anchor", margin=0.3)),
    ("supcon", SupConConfig(similarity="euclidean", margin=2.5)),
    ("margin_cosine", CosineConfig(1.0, 2.0)),
    ("margin_pairwise", PairwiseConfig(2.0)),
    ("margin_hinge", HingeConfig(2.0)),
]
DISTANCES = [
    ("distillation", DistillationConfig("l2", 0, 1, "teacher")),
    ("distillation", DistillationConfig("l2", 0, 3, "student")),
    ("distillation", DistillationConfig("cosine", 2, 0)),
]
PAIRS = [
    ("acl", ACLConfig(0.5, shift=2 / 3, strength=0.25)),
    ("acl", ACLConfig(0.5, shift=1, strength=0.5, keys=True)),
    ("air", AIRConfig(0.5, strength=0.5, air_form="paper", robust=2.0)),
]
EVERY = DEFAULTS + VARIANTS + NEGATIVES + MARGINS + DISTANCES + PAIRS
every_loss = pytest.mark.parametrize("name, cfg", EVERY, ids=str)
every_loss_once = pytest.mark.parametrize("name, cfg", slowly(EVERY, first_of_each(EVERY)))


def given(name, cfg, **more):
    """Embeddings of as many views as a loss takes, and their keys, if it reads any."""
    return embeddings(views=LOSSES[name].info.get("views", 3) * (1 + getattr(cfg, "keys", False)), **more)


def embeddings(batch=8, views=3, dim=5, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(batch, views, dim)), jnp.float32)


def oracle(name):
    declared = ORACLES.get(name) or (LOSSES[name].info.get("oracle") if name in LOSSES else None)
    if declared is None:
        pytest.fail(f"loss {name!r} has no oracle: add one to ORACLES, or register the loss with oracle=...")
    return declared


def evaluate(name, cfg, z, labels, where=None):
    """-> (losses [B, V], gradient of their sum [B, V, D])."""
    return compiled(name, cfg)(z, jnp.asarray(labels), np.ones(len(z), bool) if where is None else where)[::-1]


@functools.cache
def compiled(name, cfg):
    def value(z, labels, where):
        losses = LOSSES[name].value(z, labels, cfg, where)
        return jnp.sum(losses), losses

    return jax.jit(jax.grad(value, has_aux=True))


@every_loss
def test_equals_its_oracle(name, cfg):
    z, where = given(name, cfg), np.arange(8) != 3
    losses, _ = evaluate(name, cfg, z, LABELS, where)
    assert losses.shape == z.shape[:2] and losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, oracle(name)(np.float64(z), LABELS, cfg, where), rtol=1e-5, atol=1e-5)


def test_a_loss_without_an_oracle_is_told_what_to_bring():
    with pytest.raises(pytest.fail.Exception, match="loss 'mine' has no oracle: add one to ORACLES, or register"):
        oracle("mine")


@every_loss
def test_gradient_is_that_of_finite_differences(name, cfg):
    loss = jax.jit(lambda z: jnp.sum(LOSSES[name].value(z, jnp.asarray(LABELS), cfg)))
    check_grads(loss, (given(name, cfg),), order=1, modes="rev", rtol=2e-2, atol=2e-2, eps=1e-3)


@every_loss
def test_order_of_the_images_does_not_matter(name, cfg):
    z, order = given(name, cfg), np.random.default_rng(1).permutation(8)
    straight, shuffled = evaluate(name, cfg, z, LABELS), evaluate(name, cfg, z[order], LABELS[order])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[order], b, rtol=1e-4, atol=1e-5), straight, shuffled)


@every_loss
def test_masking_equals_slicing(name, cfg):
    where = np.array([1, 1, 0, 1, 1, 0, 0, 1], bool)
    z = jnp.where(where[:, None, None], given(name, cfg), jnp.nan)
    masked, sliced = evaluate(name, cfg, z, LABELS, where), evaluate(name, cfg, z[where], LABELS[where])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[where], b, rtol=1e-4, atol=1e-5), masked, sliced)
    assert all((np.asarray(a)[~where] == 0).all() for a in masked)


@every_loss
@pytest.mark.parametrize(
    "labels", [np.zeros(8, int), np.arange(8), np.zeros(1, int)], ids=["equal", "different", "one"]
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_finite_on_odd_batches(name, cfg, labels, scale):
    classes = 8 if LOSSES[name].info.get("of") == "logits" else 5  # a label needs a logit
    z = scale * given(name, cfg, batch=len(labels), dim=classes)
    for where in (np.ones(len(labels), bool), np.zeros(len(labels), bool)):
        assert all(np.isfinite(a).all() for a in evaluate(name, cfg, z, labels, where))


@every_loss
def test_gradient_is_finite_where_embeddings_coincide(name, cfg):
    z = jnp.repeat(given(name, cfg, batch=2), 4, axis=0)  # of one class and of two
    assert all(np.isfinite(a).all() for a in evaluate(name, cfg, z.at[:, 1].set(z[:, 0]), LABELS))


@every_loss
def test_it_reads_labels_where_it_says_so(name, cfg):
    """A loss that says nothing is taken to read them; "positives" leaves it to the setting of that name."""
    declared = LOSSES[name].info.get("uses_labels", True)
    reads = cfg.positives == "class" if declared == "positives" else declared
    dim = 8 if LOSSES[name].info.get("of") == "logits" else 5
    one, other = (evaluate(name, cfg, given(name, cfg, dim=dim), labels) for labels in (LABELS, LABELS[::-1]))
    assert reads != all(np.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


@every_loss_once
@pytest.mark.parametrize("temperature", [0.01, 10.0])
def test_temperatures(name, cfg, temperature):
    if not hasattr(cfg, "temperature"):
        pytest.skip("this loss has no temperature")
    cfg = dataclasses.replace(cfg, temperature=temperature)
    losses, gradient = evaluate(name, cfg, given(name, cfg), LABELS)
    expected = oracle(name)(np.float64(given(name, cfg)), LABELS, cfg, np.ones(8, bool))
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(gradient).all()


@every_loss_once
def test_eight_devices_give_the_loss_of_one(name, cfg):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    z, labels, where = given(name, cfg, batch=16), np.tile(LABELS, 2), np.arange(16) < 13
    one = evaluate(name, cfg, z, labels, where)
    eight = evaluate(name, cfg, *jax.device_put((z, labels, where), NamedSharding(mesh, PartitionSpec("data"))))
    assert len(eight[1].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, eight)
