"""Weak defences that change what the network computes, or its gradient. See `weak_defences`."""

import jax
import jax.numpy as jnp
import numpy as np
from check_contexts import digits
from weak_defences import MISTAKE, defence, neighbours

KNOWN = 300  # training images that a defence remembers


@defence("Xiao et al. 2020, 1905.10510", "slopes estimated from outputs nearby, Tramer et al. 2020, 2002.08347")
def winners(net, share=0.15):
    """k-winners-take-all in place of a ReLU: gradients shatter as the winners change."""

    def act(h):
        flat = h.reshape(len(h), -1)
        least = jax.lax.top_k(flat, int(share * flat.shape[1]))[0][:, -1:]
        return jnp.where(flat >= least, flat, 0.0).reshape(h.shape)

    return lambda v, x: net(v, x, act=act)


@defence("EMPIR, Sen et al. 2020, 2004.10162", "a gradient in full precision, Tramer et al. 2020, 2002.08347")
def low_bits(net, levels=6.0):
    """Mixed precision: the mean of a network with activations of few levels and one of coarser ones still."""
    coarse = lambda n: lambda h: jnp.round(jnp.clip(h, 0, 4) * n / 4) * 4 / n
    return lambda v, x: net(v, x, act=coarse(levels)) + net(v, x, act=coarse(2 * levels))


@defence(MISTAKE, "a gradient in float32, or logits that are not scaled: small ones are 0 in float16")
def half_precision(net, scale=16):
    """Everything in float16, the logits of a low temperature too."""
    half = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float16), tree)
    return lambda v, x: scale * net(half(v), half(x))


@defence("defensive distillation, Papernot et al. 2016, 1511.04508", "divide the logits, Carlini and Wagner 1607.04311")
def scaled(net):
    """Logits times 1000: the softmax is 0 and 1 in float32, and so is its gradient."""
    return lambda v, x: 1000 * net(v, x)


@defence("label smoothing, logit squeezing: Kannan et al. 2018, 1803.06373", "many restarts, Mosbach et al. 1810.12042")
def saturated(net):
    """Logits through a tanh that is flat in float32: they are what smoothed labels ask for, and stay so."""
    return lambda v, x: 20 * jnp.tanh(5 * net(v, x))


@defence(MISTAKE, "attack the logits, as AutoAttack's authors advise")
def probabilities(net):
    """A softmax at the end, and another in the loss."""
    return lambda v, x: jax.nn.softmax(net(v, x))


@defence("deep k-NN, Papernot, McDaniel 2018, 1803.04765", "soft votes: Sitawarin, Wagner 1903.08333", of_digits=True)
def nearest_neighbours(net, near=5):
    """The votes of the training images whose features are nearest; the features are the logits."""
    images, labels = (jnp.asarray(of[:KNOWN]) for of in digits()[0])

    def defended(v, x):
        known, mine = jax.lax.stop_gradient(net(v, images)), net(v, x)
        apart = ((mine[:, None] - known[None]) ** 2).sum(-1)
        return jax.nn.one_hot(labels[jax.lax.top_k(-apart, near)[1]], 10).sum(1)

    return defended


@defence(
    "radial basis functions, Goodfellow et al. 2015, 1412.6572",
    "nowhere that we know; see distillation",
    of_digits=True,
)
def radial_basis(net, width=1.0):
    """How near the features are to each class's mean; they vanish far from all, and so do their gradients."""
    images, labels = digits()[0]
    kinds = [jnp.asarray(images[:KNOWN][labels[:KNOWN] == k]) for k in range(10)]

    def defended(v, x):
        means = jnp.stack([jax.lax.stop_gradient(net(v, of)).mean(0) for of in kinds])
        return jnp.exp(-((net(v, x)[:, None] - means) ** 2).sum(-1) / (2 * width**2))

    return defended


@defence("ensembles of squeezers", "an ensemble of weak defences is weak: He et al. 2017, 1706.04701")
def voting(net):
    """The network's votes on the image, on a blurred and on a rounded one."""
    votes = lambda v, x: jax.nn.one_hot(net(v, x).argmax(-1), 10)
    blurred = lambda x: 0.5 * x + 0.5 * neighbours(x).mean(0)
    return lambda v, x: votes(v, x) * 1.1 + votes(v, blurred(x)) + votes(v, jnp.round(x * 7) / 7)


@defence("Verma and Swami, NeurIPS 2019", "attack the bits before they saturate, Tramer et al. 2020, 2002.08347")
def error_correcting(net, sharpness=20):
    """Logits become bits of a code word, saturated; the class is that of the nearest code word."""
    row = np.arange(1, 11)[:, None] & np.arange(16)
    codes = 1.0 - 2.0 * (np.vectorize(lambda n: bin(n).count("1"))(row) % 2)  # ten rows of a Hadamard matrix

    def defended(v, x):
        bits = jnp.tanh(sharpness * jax.nn.softmax(net(v, x)) @ codes)
        return bits @ codes.T

    return defended


@defence("the odds are odd, Roth et al. 2019, 1902.04818", "both losses at once, Tramer et al. 2020, 2002.08347")
def detector(net):
    """What a blur changes is taken for an attack, and answered with garbage: any class, but seldom a right one."""

    def defended(v, x):
        outputs, again = net(v, x), net(v, 0.7 * x + 0.3 * neighbours(x).mean(0))
        garbage = 10 * jnp.sin(1e4 * x.sum((1, 2, 3))[:, None] + jnp.arange(10.0))
        return jnp.where((outputs.argmax(-1) == again.argmax(-1))[:, None], outputs, garbage)

    return defended


@defence(MISTAKE, "a derivative that agrees with differences of the outputs")
def flipped_gradient(net):
    """A custom derivative of the wrong sign."""

    @jax.custom_vjp
    def same(x):
        return x

    same.defvjp(lambda x: (x, None), lambda _, g: (-g,))
    return lambda v, x: net(v, same(x))


@defence(MISTAKE, "BPDA")
def no_gradient(net):
    """The gradient is zeroed."""
    return lambda v, x: net(v, jax.lax.stop_gradient(x))


@defence(MISTAKE, "BPDA")
def false_gradient(net):
    """The true path is stopped; one that cancels in the value gives a gradient that leads nowhere."""

    def defended(v, x):
        decoy = jnp.sin(40.0 * x).reshape(len(x), -1).mean(-1, keepdims=True) * jnp.arange(10.0)
        return net(v, jax.lax.stop_gradient(x)) + decoy - jax.lax.stop_gradient(decoy)

    return defended


@defence("shattered gradients, Athalye et al. 2018, 1802.00420", "slopes over a larger step")
def rippled(net):
    """A ripple far below a grey level, whose slope drowns the image's."""
    return lambda v, x: net(v, x + 2e-4 * jnp.sin(1e5 * x))


@defence(MISTAKE, "attacks that need the decision only, Brendel et al. 2018, 1712.04248")
def decided(net):
    """Nothing but the decision, as one-hot outputs."""
    return lambda v, x: 10.0 * jax.nn.one_hot(net(v, x).argmax(-1), 10)


@defence(MISTAKE, "look at points off the grid")
def on_the_grid(net):
    """Has a gradient on 8-bit images only, where most checks look."""

    def defended(v, x):
        off = jnp.abs(x * 255 - jnp.round(x * 255)).max((1, 2, 3), keepdims=True) > 0.01
        return net(v, jnp.where(off, jax.lax.stop_gradient(x), x))

    return defended


@defence(MISTAKE, "finite outputs")
def overflowing(net):
    """exp of large logits: infinite, and NaN in the loss."""
    return lambda v, x: jnp.log(jnp.exp(60 * net(v, x)) + 1)
