"""Weak defences that change the input, by a rule or with noise. See `weak_defences`."""

import jax
import jax.numpy as jnp
import numpy as np
from check_contexts import digits
from weak_defences import MISTAKE, defence, neighbours

# --- inputs are changed -----------------------------------------------------------------------------------------------


@defence("feature squeezing, Xu et al. 2018, 1704.01155", "He et al. 2017, 1706.04701; BPDA, Athalye 2018, 1802.00420")
def quantised(net, levels=7):
    """Inputs rounded to 3 bits: no gradient."""
    return lambda v, x: net(v, jnp.round(x * levels) / levels)


@defence("Buckman et al., ICLR 2018", "a smooth stand-in in the backward pass (BPDA), Athalye et al. 2018, 1802.00420")
def thermometer(net, levels=16):
    """Every pixel as the number of thresholds it exceeds."""
    thresholds = (jnp.arange(levels) + 0.5) / levels
    return lambda v, x: net(v, (x[..., None] > thresholds).mean(-1))


@defence(
    "Guo et al. 2018, 1711.00117; Das et al. 2017, 1705.02900", "BPDA with the identity, Athalye et al. 1802.00420"
)
def jpeg(net, coarseness=6 / 255):
    """Coefficients of the cosine transform of 8 x 8 pixels are rounded, high frequencies to coarser steps."""
    n, k = np.arange(8), np.arange(8)[:, None]
    cosines = np.where(k == 0, 8**-0.5, 0.5) * np.cos((2 * n + 1) * k * np.pi / 16)
    steps = coarseness * (1 + k + n)

    def compressed(x):
        b, h, w, c = x.shape
        blocks = x.reshape(b, h // 8, 8, w // 8, 8, c)
        found = jnp.einsum("bhnwmc,kn,lm->bhwckl", blocks, cosines, cosines)
        kept = jnp.round(found / steps) * steps
        return jnp.einsum("bhwckl,kn,lm->bhnwmc", kept, cosines, cosines).reshape(x.shape)

    return lambda v, x: net(v, compressed(x))


@defence(
    "Guo et al. 2018, 1711.00117", "BPDA with the identity in place of the minimisation, Athalye et al. 1802.00420"
)
def total_variation(net, weight=0.05, steps=8):
    """The image that is close to the given one and has little total variation, found by steps without a derivative."""

    def energy(y, x):
        slopes = jnp.diff(y, axis=1)[:, :, :-1] ** 2 + jnp.diff(y, axis=2)[:, :-1] ** 2
        return ((y - x) ** 2).sum() / 2 + weight * jnp.sqrt(slopes + 1e-4).sum()

    def smooth(x):
        y = x
        for _ in range(steps):
            y = y - 0.1 * jax.grad(energy)(y, x)
        return jax.lax.stop_gradient(y)

    return lambda v, x: net(v, smooth(x))


@defence("feature squeezing, Xu et al. 2018, 1704.01155", "a gradient through the filter, He et al. 2017, 1706.04701")
def median(net):
    """The median of three by three pixels, half mixed with the image."""
    return lambda v, x: net(v, 0.5 * x + 0.5 * jnp.median(neighbours(x), 0))


@defence("mean blur, Li and Li 2017, 1612.07767", "a gradient through the blur, Carlini and Wagner 2017, 1705.07263")
def mean(net):
    """The mean of three by three pixels, half mixed with the image."""
    return lambda v, x: net(v, 0.5 * x + 0.5 * neighbours(x).mean(0))


@defence("MagNet, Meng and Chen 2017, 1705.09064", "gradients through the autoencoder, 1711.08478", of_digits=True)
def purified(net, kept=32):
    """A linear autoencoder before the network: the principal components of the training images."""
    flat = digits()[0][0].reshape(-1, 64)
    centre, parts = flat.mean(0), np.linalg.svd(flat - flat.mean(0), full_matrices=False)[2][:kept]
    return lambda v, x: net(v, ((x.reshape(len(x), -1) - centre) @ parts.T @ parts + centre).reshape(x.shape))


@defence(
    "nearest images of a large set, Dubey et al. 2019, 1903.01612; as Defense-GAN, 1805.06605, a projection",
    "Defense-GAN: BPDA, Athalye et al. 1802.00420",
    of_digits=True,
)
def retrieved(net, near=3):
    """The mean of the nearest training images in place of the image."""
    known = jnp.asarray(digits()[0][0])

    def closest(x):
        apart = ((x.reshape(len(x), 1, -1) - known.reshape(1, len(known), -1)) ** 2).sum(-1)
        return known[jax.lax.top_k(-apart, near)[1]].mean(1)

    return lambda v, x: net(v, closest(x))


@defence("ME-Net, Yang et al. 2019, 1905.11971", "BPDA, and EOT over its masks, Tramer et al. 2020, 2002.08347")
def low_rank(net, rank=5):
    """The best approximation of a few singular values; the derivative of the decomposition is left out."""

    def estimated(x):
        u, s, vh = jnp.linalg.svd(jax.lax.stop_gradient(jnp.moveaxis(x, -1, 1)), full_matrices=False)
        return jnp.moveaxis((u[..., :rank] * s[..., None, :rank]) @ vh[..., :rank, :], 1, -1)

    return lambda v, x: net(v, estimated(x))


@defence(MISTAKE, "attack in pixels, with the normalisation inside the model")
def takes_normalised(net, mean=0.5, std=0.25):
    """Wants (x - mean) / std: whoever attacks its inputs attacks with a quarter of eps."""
    return lambda v, x: net(v, x * std + mean)


@defence("adaptive at test time, e.g. Wu et al. 2020", "attack every image by itself, Croce et al. 2022, 2202.13711")
def batch_normalised(net):
    """BatchNorm in training mode: pixels are seen relative to the batch."""

    def defended(v, x):
        mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
        return net(v, (x - mean) / (std + 1e-5) * 0.25 + 0.5)

    return defended


# --- noise ------------------------------------------------------------------------------------------------------------


@defence(
    "Xie et al. 2018, 1711.01991", "gradients averaged over draws (EOT), Athalye et al. 1802.00420", randomized=True
)
def resized_and_padded(net):
    """Shrunk by up to a fifth and put somewhere, at random."""

    def defended(v, x, key):
        scale_key, place_key = jax.random.split(key)
        scale = jax.random.uniform(scale_key, (), minval=0.8, maxval=1.0)
        place = jax.random.uniform(place_key, (2,)) * (1 - scale) * x.shape[1]
        shrink = lambda image: jax.image.scale_and_translate(
            image, image.shape, (0, 1), jnp.stack([scale, scale]), place, "linear", antialias=False
        )
        return net(v, jax.vmap(shrink)(x))

    return defended


@defence("Feinman et al. 2017, 1703.00410", "a loss over the draws, Carlini, Wagner 1705.07263", randomized=True)
def dropped_out(net, rate=0.3):
    """Dropout at test time."""

    def defended(v, x, key):
        kept = lambda h: jax.random.bernoulli(jax.random.fold_in(key, h.size), 1 - rate, h.shape) / (1 - rate)
        return net(v, x, act=lambda h: jax.nn.relu(h) * kept(h))

    return defended


@defence("Dhillon et al. 2018, 1803.01442", "gradients averaged over draws, Athalye et al. 1802.00420", randomized=True)
def pruned(net, draws=1.0):
    """Stochastic activation pruning: large activations are likelier to be kept, and what is kept is scaled up."""

    def defended(v, x, key):
        def act(h):
            flat = jax.nn.relu(h).reshape(len(h), -1)
            share = flat / (flat.sum(-1, keepdims=True) + 1e-9)
            stays = 1 - (1 - jnp.minimum(share, 0.999)) ** (draws * flat.shape[-1])
            drawn = jax.random.bernoulli(jax.random.fold_in(key, h.size), stays)
            return jnp.where(drawn, flat / jnp.maximum(stays, 1e-6), 0.0).reshape(h.shape)

        return net(v, x, act=act)

    return defended


@defence("random self-ensemble, Liu et al. 2018, 1712.00673", "EOT, as in Athalye et al. 1802.00420", randomized=True)
def noisy(net, size=0.1):
    """Gaussian noise at the input."""
    return lambda v, x, key: net(v, x + size * jax.random.normal(key, x.shape))


@defence("Pang et al. 2020, 1909.11515", "EOT, Tramer et al. 2020, 2002.08347", randomized=True, of_digits=True)
def mixed_up(net, share=0.8):
    """Every image is mixed with a training image, at random."""
    known = jnp.asarray(digits()[0][0])
    return lambda v, x, key: net(v, share * x + (1 - share) * jax.random.choice(key, known, (len(x),)))


@defence("Prakash et al. 2018, 1801.08926", "BPDA, Athalye and Carlini 2018, 1804.03286", randomized=True)
def deflected(net, share=0.1):
    """Some pixels become one of their neighbours, at random."""

    def defended(v, x, key):
        who, where = jax.random.split(key)
        other = jax.random.choice(where, neighbours(x))
        return net(v, jnp.where(jax.random.bernoulli(who, share, x.shape), other, x))

    return defended


@defence("barrage, Raff et al., CVPR 2019", "Sitawarin et al. 2022, 2207.03574: a better EOT", randomized=True)
def barrage(net):
    """Random contrast and noise, and rounding with random thresholds."""

    def defended(v, x, key):
        contrast, noise, threshold = jax.random.split(key, 3)
        seen = 0.5 + (x - 0.5) * jax.random.uniform(contrast, (), minval=0.8, maxval=1.2)
        seen = seen + 0.05 * jax.random.normal(noise, x.shape)
        return net(v, jnp.floor(seen * 8 + jax.random.uniform(threshold, x.shape)) / 8)

    return defended


@defence("any of the above, not announced", "announce it: EOT, Athalye et al. 1802.00420")
def noise_of_python(net, size=0.1):
    """Noise drawn in Python, another in every program that is compiled, and nobody is told."""
    return lambda v, x: net(v, x + np.random.normal(0, size, x.shape).astype(np.float32))


@defence(MISTAKE, "a fixed key in the forward")
def noise_of_content(net, size=0.1):
    """Noise that the image itself is the seed of: deterministic, and another at every step."""

    def defended(v, x):
        seeds = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x.sum((1, 2, 3))), jnp.int32)
        noise = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), x.shape[1:]))(seeds)
        return net(v, x + size * noise)

    return defended


@defence(MISTAKE, "a key per image")
def noise_by_place(net, size=0.1):
    """Noise of one key for the whole batch: an image's depends on its row."""
    return lambda v, x: net(v, x + size * jax.random.normal(jax.random.key(0), x.shape))
