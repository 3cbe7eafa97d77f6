"""The MM attack (Gao et al., ICML 2022): targeted APGD on the margin between a wrong class and the label.

One run towards each of the `targets` classes most worth it. They are ordered as in MALT (Melamed et al., NeurIPS 2024):
of the likeliest wrong classes, those come first whose boundary is nearest for the model linearised at the image,

    (z_label - z_k) / |gradient of z_k - z_label|        in the dual norm

for a class of a smaller logit may have the steeper gradient. It costs one backward pass per candidate. With no more
candidates than targets, or `candidates=0`, the likeliest classes are taken as they are.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from clead_jax.attacks import apgd, norms
from clead_jax.attacks.fab_projection import length
from clead_jax.attacks.objectives import likeliest_others, minimum_margin, one_hot
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MMConfig(apgd.TargetedAPGDConfig):
    """Settings of the MM attack."""

    candidates: int = jax.tree.static(default=30)  # likeliest wrong classes whose distance is estimated

    def __post_init__(self) -> None:
        super().__post_init__()
        norms.check_settings(self, candidates=0)


def nearest(forward: Forward, x: Array, labels: Array, cfg: MMConfig) -> Array:
    """All wrong classes [B, K - 1] of images x [B, ...] with labels int [B]: the candidates by distance, the others."""
    outputs, pull = jax.vjp(forward, x)
    ranked = likeliest_others(outputs, labels, outputs.shape[-1])
    far = []
    for k in range(_estimated(cfg, outputs.shape[-1])):  # one after the other: vmap is slower on XLA:CPU
        sign = one_hot(outputs, ranked[:, k]).astype(outputs.dtype) - one_hot(outputs, labels)  # of z_k - z_label
        gap = jnp.sum(jnp.where(sign != 0, sign * outputs, 0.0), axis=-1)
        far.append(-gap / jnp.maximum(length(pull(sign)[0], norms.DUAL[cfg.norm]), 1e-30))
    if not far:
        return ranked
    first = jnp.argsort(jnp.stack(far, axis=-1), axis=-1)
    return jnp.concatenate([jnp.take_along_axis(ranked, first, axis=-1), ranked[:, len(far) :]], axis=-1)


def _estimated(cfg: MMConfig, classes: int) -> int:
    """How many classes are compared by distance."""
    candidates = min(cfg.candidates, classes - 1)
    return candidates if candidates > cfg.targets else 0


def _init_passes(cfg: MMConfig, classes: int) -> tuple[int, int]:
    return 1, _estimated(cfg, classes)


MM = apgd.APGD._replace(init=functools.partial(apgd.init, order=nearest), init_passes=_init_passes)
ATTACKS.register("mm", MMConfig, objective=minimum_margin)(MM)
