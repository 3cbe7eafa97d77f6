"""Wrappers: `Classifier`s made of `Classifier`s, attacked end to end as one model. A wrapper is a registered function

@WRAPPERS.register("name", Config)
def wrapper(classifiers: Sequence[Classifier], cfg: Config) -> Classifier
"""

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from clead_jax.core import spec
from clead_jax.core.registry import WRAPPERS
from clead_jax.core.types import Array, Classifier, Key, PyTree

COMBINE = ("probabilities", "logits", "vote")
VOTED = "ensemble: votes have no gradient, so attacks follow the mean of the probabilities"


@dataclass(frozen=True)
class EnsembleConfig:
    """`combine`: the mean of probabilities, the mean of logits, or the majority of the predicted classes."""

    combine: str = "probabilities"

    def __post_init__(self) -> None:
        if self.combine not in COMBINE:
            raise ValueError(f"combine is {self.combine!r}; it can be {', '.join(COMBINE)}")


@dataclass(frozen=True)
class NoiseConfig:
    """`std` of the Gaussian noise, in units of the [0, 1] pixel range."""

    std: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.std < float("inf"):
            raise ValueError(f"std must be positive, got {self.std}")


@dataclass(frozen=True)
class Bfloat16Config:
    """Nothing to choose."""


@WRAPPERS.register("ensemble", EnsembleConfig)
def ensemble(classifiers: Sequence[Classifier], cfg: EnsembleConfig) -> Classifier:
    """Several classifiers as one, of any architectures. Its variables are a tuple of theirs.

    Votes have no gradient: there attacks differentiate the mean of the probabilities. Raises ValueError for classifiers
    that differ in classes or image shape.
    """
    first = classifiers[0]
    for other in classifiers[1:]:
        for field in ("num_classes", "image_shape"):
            mine, its = getattr(first, field), getattr(other, field)
            if mine and its and mine != its:
                raise ValueError(f"ensemble: {first.name} and {other.name} differ in {field}: {mine} and {its}")
    randomized = [c.randomized for c in classifiers]
    soft = "probabilities" if cfg.combine == "vote" else cfg.combine
    attacked = _combined([c.attack_forward or c.forward for c in classifiers], randomized, soft)
    elsewhere = cfg.combine == "vote" or any(c.attack_forward for c in classifiers)
    return dataclasses.replace(
        first,
        forward=_combined([c.forward for c in classifiers], randomized, cfg.combine),
        variables=tuple(c.variables for c in classifiers),
        randomized=any(randomized),
        attack_forward=attacked if elsewhere else None,
        name=f"ensemble({'+'.join(c.name for c in classifiers)})",
        metadata=attacks_see(classifiers, VOTED if cfg.combine == "vote" else ""),
    )


def _combined(forwards: list[Callable], randomized: list[bool], combine: str) -> Callable[..., Array]:
    def forward(variables: PyTree, x: Array, *key: Key) -> Array:
        keys = [(jax.random.fold_in(key[0], n),) if noisy else () for n, noisy in enumerate(randomized)]
        logits = jnp.stack([f(v, x, *k) for f, v, k in zip(forwards, variables, keys, strict=True)])
        if combine == "logits":
            return logits.mean(0)
        if combine == "probabilities":
            return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(forwards))
        return jax.nn.one_hot(logits.argmax(-1), logits.shape[-1]).sum(0)

    return forward


@WRAPPERS.register("noise", NoiseConfig)
def noise(classifiers: Sequence[Classifier], cfg: NoiseConfig) -> Classifier:
    """A randomised model: Gaussian noise is added to every image, by a key per row (arXiv 1902.02918, without the
    certificate). Raises ValueError for other than one classifier, and for one that is randomised already.
    """
    inner = only(classifiers, "noise")
    if inner.randomized:
        raise ValueError(f"noise: {inner.name} draws noise already")

    def noisy(forward: Callable) -> Callable[..., Array]:
        def with_noise(variables: PyTree, x: Array, key: Key) -> Array:
            keys = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(len(x)))
            drawn = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))(keys)
            return forward(variables, x + cfg.std * drawn)

        return with_noise

    attacked = noisy(inner.attack_forward) if inner.attack_forward else None
    name = f"noise({inner.name})"
    return dataclasses.replace(inner, forward=noisy(inner.forward), attack_forward=attacked, randomized=True, name=name)


@WRAPPERS.register("bfloat16", Bfloat16Config)
def bfloat16(classifiers: Sequence[Classifier], cfg: Bfloat16Config) -> Classifier:
    """Attacks differentiate a copy whose weights and images are cast to bfloat16; the model itself judges."""
    inner = only(classifiers, "bfloat16")
    half = lambda leaf: leaf.astype(jnp.bfloat16) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) else leaf
    forward = inner.attack_forward or inner.forward
    cheaper = lambda variables, x, *key: forward(jax.tree.map(half, variables), half(x), *key).astype(jnp.float32)
    return dataclasses.replace(inner, attack_forward=cheaper, name=f"bfloat16({inner.name})")


def wrap(text: str, *classifiers: Classifier) -> Classifier:
    """A wrapper by its name, around classifiers: wrap("ensemble(combine=vote)", a, b, c) or wrap("jpeg", model).

    Raises ValueError for an unknown wrapper or setting, and for classifiers that it cannot wrap.
    """
    entry = WRAPPERS[spec.parse(text)[0]]
    return entry.value(classifiers, spec.settings(text, "wrapper", entry.config, {}))


def unwrapped(text: str) -> tuple[str, list[str]] | None:
    """A wrapper and the names inside: "ensemble(a+b,combine=vote)" -> ("ensemble(combine=vote)", ["a", "b"]).

    None for what has no parentheses. Raises ValueError for an unknown wrapper.
    """
    if not (inside := re.fullmatch(r"(\w+)\((.*)\)", text.strip())):
        return None
    WRAPPERS[inside[1]]  # says which there are
    names, *settings = spec.items(inside[2]) or ("",)
    return f"{inside[1]}({','.join(settings)})", spec.split(names, "+")


def only(classifiers: Sequence[Classifier], name: str) -> Classifier:
    """The one classifier of a wrapper that takes no more. Raises ValueError for several."""
    if len(classifiers) != 1:
        raise ValueError(f"{name} wraps one classifier, not {len(classifiers)}")
    return classifiers[0]


def attacks_see(classifiers: Sequence[Classifier], sentence: str) -> dict[str, Any]:
    """Metadata that say what attacks see of a model made of these, where that is not the model itself."""
    inside = [line for classifier in classifiers for line in classifier.metadata.get("attacks_see", ())]
    return {"attacks_see": [*inside, sentence] if sentence else inside}
