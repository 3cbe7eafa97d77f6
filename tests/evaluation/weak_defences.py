"""Defences that only look robust. Each makes of `forward(variables, x) -> logits` another such function.

`PLANTED` are the ones every evaluation has to see through, `HELD_OUT` others that the checks were not made for.
Each leaves a model that is right on clean images, and an attack by gradients that finds little.
"""

import jax
import jax.numpy as jnp
import numpy as np

# --- planted ----------------------------------------------------------------------------------------------------------


def scaled(forward):
    """Logits times 1000: the softmax is 0 and 1 in float32, and so is its gradient."""
    return lambda v, x: 1000 * forward(v, x)


def quantised(forward, levels=7):
    """Inputs rounded to 3 bits: no gradient."""
    return lambda v, x: forward(v, jnp.round(x * levels) / levels)


def probabilities(forward):
    """A softmax at the end, and another in the loss."""
    return lambda v, x: jax.nn.softmax(forward(v, x))


def resized_and_padded(forward):
    """Shrunk by up to a fifth and put somewhere, at random (Xie et al. 2018). Takes a key."""

    def defended(v, x, key):
        scale_key, place_key = jax.random.split(key)
        scale = jax.random.uniform(scale_key, (), minval=0.8, maxval=1.0)
        place = jax.random.uniform(place_key, (2,)) * (1 - scale) * x.shape[1]
        shrink = lambda image: jax.image.scale_and_translate(
            image, image.shape, (0, 1), jnp.stack([scale, scale]), place, "linear", antialias=False
        )
        return forward(v, jax.vmap(shrink)(x))

    return defended


def winners(h, share=0.15):
    """k-winners-take-all (Xiao et al. 2020), in place of a ReLU: gradients shatter as the winners change."""
    flat = h.reshape(len(h), -1)
    least = jax.lax.top_k(flat, int(share * flat.shape[1]))[0][:, -1:]
    return jnp.where(flat >= least, flat, 0.0).reshape(h.shape)


def takes_normalised(forward, mean=0.5, std=0.25):
    """Wants (x - mean) / std: whoever attacks its inputs attacks with a quarter of eps."""
    return lambda v, x: forward(v, x * std + mean)


def batch_normalised(forward):
    """BatchNorm in training mode: pixels are seen relative to the batch."""

    def defended(v, x):
        mean, std = x.mean((0, 1, 2)), x.std((0, 1, 2))
        return forward(v, (x - mean) / (std + 1e-5) * 0.25 + 0.5)

    return defended


def no_gradient(forward):
    """The gradient is zeroed."""
    return lambda v, x: forward(v, jax.lax.stop_gradient(x))


# --- held out ---------------------------------------------------------------------------------------------------------


def false_gradient(forward):
    """The true path is stopped; one that cancels in the value gives a gradient that leads nowhere."""

    def defended(v, x):
        decoy = jnp.sin(40.0 * x).reshape(len(x), -1).mean(-1, keepdims=True) * jnp.arange(10.0)
        return forward(v, jax.lax.stop_gradient(x)) + decoy - jax.lax.stop_gradient(decoy)

    return defended


def rippled(forward):
    """A ripple far below a grey level, whose slope drowns the image's."""
    return lambda v, x: forward(v, x + 2e-4 * jnp.sin(1e5 * x))


def saturated(forward):
    """Logits through a tanh that is flat in float32."""
    return lambda v, x: 20 * jnp.tanh(5 * forward(v, x))


def decided(forward):
    """Nothing but the decision, as one-hot outputs."""
    return lambda v, x: 10.0 * jax.nn.one_hot(forward(v, x).argmax(-1), 10)


def thermometer(forward, levels=16):
    """Every pixel as the number of thresholds it exceeds (Buckman et al. 2018)."""
    thresholds = (jnp.arange(levels) + 0.5) / levels
    return lambda v, x: forward(v, (x[..., None] > thresholds).mean(-1))


def noise_of_python(forward, size=0.1):
    """Noise drawn in Python, another in every program that is compiled, and nobody is told."""

    def defended(v, x):
        return forward(v, x + np.random.normal(0, size, x.shape).astype(np.float32))

    return defended


def noise_of_content(forward, size=0.1):
    """Noise that the image itself is the seed of: deterministic, and another at every step."""

    def defended(v, x):
        seeds = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x.sum((1, 2, 3))), jnp.int32)
        noise = jax.vmap(lambda seed: jax.random.normal(jax.random.key(seed), x.shape[1:]))(seeds)
        return forward(v, x + size * noise)

    return defended


def noise_by_place(forward, size=0.1):
    """Noise of one key for the whole batch: an image's depends on its row."""
    return lambda v, x: forward(v, x + size * jax.random.normal(jax.random.key(0), x.shape))


def on_the_grid(forward):
    """Has a gradient on 8-bit images only, where most checks look."""

    def defended(v, x):
        off = jnp.abs(x * 255 - jnp.round(x * 255)).max((1, 2, 3), keepdims=True) > 0.01
        return forward(v, jnp.where(off, jax.lax.stop_gradient(x), x))

    return defended


def overflowing(forward):
    """exp of large logits: infinite, and NaN in the loss."""
    return lambda v, x: jnp.log(jnp.exp(60 * forward(v, x)) + 1)


PLANTED = {
    "scaled": scaled,
    "quantised": quantised,
    "probabilities": probabilities,
    "takes_normalised": takes_normalised,
    "batch_normalised": batch_normalised,
    "no_gradient": no_gradient,
}  # beside `resized_and_padded`, which takes a key, and `winners`, which takes the place of an activation
HELD_OUT = {
    f.__name__: f
    for f in (
        false_gradient,
        rippled,
        saturated,
        decided,
        thermometer,
        noise_of_python,
        noise_of_content,
        noise_by_place,
        on_the_grid,
        overflowing,
    )
}
