"""Losses that hold the embedding of attacked images against that of the clean one, and that against a frozen teacher's.

    clean_weight * d(clean, teacher)  +  attacked_weight * mean over attacked views of d(attacked, anchor)

DeACL (arXiv 2207.10899): d = 1 - cosine, weights 1 and 2, anchor "student", the student's embedding of the clean view;
gradient flows through both sides of the second part. ProFeAT (arXiv 2406.05796): the same on features and projections,
weights 1 and 8. FARE (arXiv 2402.12336, Eq. 3): d = squared distance, weights 0 and 1, anchor "teacher".
"""

from dataclasses import dataclass

import jax.numpy as jnp

from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.core.types import Array
from clead_jax.losses.contrastive import on_sphere


@dataclass(frozen=True)
class DistillationConfig:
    """Settings of `distillation`. ValueError for unknown names, negative weights, and where both are 0."""

    distance: str = "cosine"  # or "l2": the squared distance
    clean_weight: float = 1.0
    attacked_weight: float = 2.0
    anchor: str = "student"  # of attacked views: the student's clean embedding, or the "teacher"'s

    def __post_init__(self) -> None:
        for field, known in (("distance", DISTANCES), ("anchor", ("student", "teacher"))):
            if (value := getattr(self, field)) not in known:
                raise ValueError(f"unknown {field} {value!r}: known: {', '.join(known)}")
        spec.check_ranges(self, clean_weight="[0, inf)", attacked_weight="[0, inf)")
        if not (self.clean_weight or self.attacked_weight):
            raise ValueError("clean_weight and attacked_weight are both 0: nothing is left to train on")

    @property
    def needs_clean(self) -> bool:
        """Whether the first view is a clean one."""
        return bool(self.clean_weight) or self.anchor == "student"


def cosine_distance(a: Array, b: Array) -> Array:
    """1 - cosine of a [..., D] and b, broadcast, in [0, 2]."""
    return 1 - jnp.sum(on_sphere(a) * on_sphere(b), axis=-1)


def squared_distance(a: Array, b: Array) -> Array:
    """|a - b|^2 of a [..., D] and b, broadcast."""
    return jnp.sum((a - b) ** 2, axis=-1)


DISTANCES = {"cosine": cosine_distance, "l2": squared_distance}


@LOSSES.register("distillation", DistillationConfig, uses_labels=False, of="teacher")
def distillation(z: Array, labels: Array, cfg: DistillationConfig, where: Array | None = None) -> Array:
    """Distance to a frozen teacher: embeddings z [B, V, D], the teacher's last -> float32 [B, V]; labels are not read.

    Before it stand the clean view, if the config reads one (`needs_clean`), and the attacked ones. The teacher's column
    is 0. `where` bool [B]: False takes an image out. Raises ValueError where a view is missing.
    """
    z = z.astype(jnp.float32)
    z = z if where is None else jnp.where(where[:, None, None], z, 0)
    views, first = z[:, :-1], int(cfg.needs_clean)
    attacked, teacher = views[:, first:], z[:, -1:]
    if views.shape[1] < first or (cfg.attacked_weight and not attacked.shape[1]):
        wanted = " and ".join(["a clean view"] * first + ["an attacked one"] * bool(cfg.attacked_weight))
        raise ValueError(f"distillation needs {wanted}: write views=clean,pgd(objective=cosine_distance)")
    apart, anchor = DISTANCES[cfg.distance], views[:, :1] if cfg.anchor == "student" else teacher
    clean = cfg.clean_weight * apart(views[:, :first], teacher)
    robust = cfg.attacked_weight / max(1, attacked.shape[1]) * apart(attacked, anchor)
    losses = jnp.concatenate([clean, robust, jnp.zeros_like(z[:, -1:, 0])], axis=1)
    return losses if where is None else jnp.where(where[:, None], losses, 0)
