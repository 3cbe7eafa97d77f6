"""Models for tests of the checks: a linear one whose robust accuracy is known, and small nets trained on digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from clead_jax.attacks.parse import named_attack
from clead_jax.core.types import Classifier, Examples, ThreatModel
from clead_jax.evaluation.checks.context import CheckContext
from clead_jax.evaluation.classifier import compiled

N, EPS = 64, 0.05


def context_of(forward, variables, images, labels, eps=EPS, norm="linf", randomized=False, classes=10, **more):
    """A context as an audit builds it; PGD has 20 steps of eps / 4, or `settings`."""
    settings = more.pop("settings", {"steps": 20, "step_size": eps / 4})
    longer = lambda e: {**settings, "step_size": settings["step_size"] * e / eps}
    model = compiled(Classifier(forward, variables, randomized=randomized), batch_size=len(images))
    if "undefended" in more:
        more["undefended"] = model.with_variables(more["undefended"])
    more.setdefault("records", {"clean": model.predict(images) == labels})
    return CheckContext(
        model=model,
        examples=Examples(images, labels, np.arange(len(images))),
        num_classes=classes,
        threat_model=ThreatModel(norm, eps),
        key=jax.random.key(0),
        named=lambda text, e: named_attack(text, {"norm": norm, "eps": e}, longer(e)),
        **more,
    )


# --- a linear model ---------------------------------------------------------------------------------------------------


def linear(v, x):
    """Two classes, divided by a plane: robust where the score exceeds eps times the sum of |v|."""
    return ((x.reshape(len(x), -1) - 0.5) @ v)[:, None] * jnp.array([-0.5, 0.5])


def blind(v, x):
    """The same without a gradient."""
    return linear(v, jax.lax.stop_gradient(x))


def linear_context(forward=linear, reach=(0.1, 0.9), **more):
    """Scores of either sign, between these shares of what eps can do: all are broken, none by chance."""
    rng = np.random.default_rng(0)
    w = rng.choice([-1.0, 1.0], 64) * rng.uniform(0.5, 1.5, 64)
    noise = rng.uniform(-0.2, 0.2, (N, 64))
    noise -= (noise @ w)[:, None] * w / (w @ w)  # moves no score
    score = rng.uniform(*reach, N) * EPS * np.abs(w).sum() * np.where(np.arange(N) % 2, 1, -1)
    images = (0.5 + noise + score[:, None] * w / (w @ w)).astype(np.float32).reshape(N, 8, 8, 1)
    images, w = more.pop("images", images), w.astype(np.float32)
    labels = (np.arange(N) % 2).astype(np.int32)
    return context_of(forward, more.pop("variables", w), images, labels, classes=2, **more)


# --- small nets on digits ---------------------------------------------------------------------------------------------


def hidden(v, x, act=jax.nn.relu, pool=False):
    """Two convolutions; [B, H, W, 1] -> [B, 8 H W]. The second has stride 2, or is followed by the largest of 2 x 2."""
    h = x - 0.5
    for name, stride in (("first", 1), ("second", 1 if pool else 2)):
        h = jax.lax.conv_general_dilated(
            h, v[name], (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        h = act(h)
    if pool:
        h = jax.lax.reduce_window(h, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return h.reshape(len(h), -1)


def convolutional(v, x, act=jax.nn.relu, pool=False):
    """`hidden`, and a linear layer; [B, H, W, 1] -> [B, K]."""
    return hidden(v, x, act, pool) @ v["last"]


def digits():
    """(images [n, 8, 8, 1], labels) for training, and `N` each to be attacked."""
    pixels, labels = load_digits(return_X_y=True)
    images = (pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    return (images[N:], labels[N:].astype(np.int32)), (images[:N], labels[:N].astype(np.int32))


def halves():
    """`digits` of two classes: below 5, and from 5 on."""
    return [(images, (labels >= 5).astype(np.int32)) for images, labels in digits()]


def pairs():
    """Two digits beside each other, [n, 8, 16, 1]: a hundred classes."""
    rng = np.random.default_rng(0)

    def paired(images, labels, count):
        left, right = rng.integers(0, len(labels), (2, count))
        return np.concatenate([images[left], images[right]], 2), 10 * labels[left] + labels[right]

    train, test = digits()
    return paired(*train, 8000), paired(*test, N)


@functools.cache
def trained(eps, net=convolutional, data=digits):
    """Variables of `convolutional`, trained on what four steps of PGD make of the images; clean for eps = 0."""
    (images, labels), _ = data()
    rng, tx = np.random.default_rng(0), optax.adam(3e-3)
    shapes = {"first": (3, 3, 1, 16), "second": (3, 3, 16, 32), "last": (8 * images[0].size, labels.max() + 1)}
    variables = {
        k: jnp.asarray(rng.normal(size=s) * (2 / np.prod(s[:-1])) ** 0.5, jnp.float32) for k, s in shapes.items()
    }
    loss = lambda v, x, y: optax.softmax_cross_entropy_with_integer_labels(net(v, x), y).mean()

    @jax.jit
    def step(v, state, x, y):
        x_adv = x
        for _ in range(4 if eps else 0):
            x_adv = x_adv + eps / 2 * jnp.sign(jax.grad(loss, 1)(v, x_adv, y))
            x_adv = jnp.clip(jnp.clip(x_adv, x - eps, x + eps), 0, 1)
        updates, state = tx.update(jax.grad(loss)(v, x_adv, y), state)
        return optax.apply_updates(v, updates), state

    state = tx.init(variables)
    for _ in range(400):
        rows = rng.integers(0, len(labels), 64)
        variables, state = step(variables, state, images[rows], labels[rows])
    return variables
