"""What counts as a success: an attack reports none of its own, its images are measured and shown to the model again."""

import numpy as np

from clead_jax.core.types import NamedAttack


def verdict(named: NamedAttack, x: np.ndarray, image: np.ndarray, fooled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(which images [B] are broken, how far they went [B]): fooled, finite, in [0, 1] and within the radius."""
    distance = norm_of(image - x, named.cfg.norm)
    flat = image.reshape(len(image), -1)
    allowed = (flat.min(1) >= 0) & (flat.max(1) <= 1) & (distance <= rounded_up(named.radius))  # false for NaN
    return fooled & allowed, distance


def refuse(named: NamedAttack, x: np.ndarray, image: np.ndarray) -> None:
    """Raises FloatingPointError for an attack that met a non-finite gradient, RuntimeError for one outside its ball."""
    if not np.isfinite(image).all():
        raise FloatingPointError(f"attack {named.name} met a non-finite gradient")
    distance = norm_of(image - x, named.cfg.norm)
    if not (distance <= rounded_up(getattr(named.cfg, "eps", np.inf))).all() or image.min() < 0 or image.max() > 1:
        pixels = f"pixels {image.min()}..{image.max()}"
        raise RuntimeError(f"attack {named.name} left its ball: distance {distance.max()}, {pixels}")


def norm_of(difference: np.ndarray, norm: str) -> np.ndarray:
    """Norms [N] of differences [N, ...]; `norm` is linf, l2 or l1."""
    order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
    return np.linalg.norm(difference.reshape(len(difference), -1), ord=order, axis=1).astype(np.float32)


def rounded_up(radius: float) -> float:
    """The radius, and what float32 may add to it."""
    return radius * (1 + 1e-5) + 1e-6
