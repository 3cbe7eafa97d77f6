"""A model that draws noise, judged by single fresh draws instead of the mean of several."""

import jax
import numpy as np

from clead_jax.core.types import Key
from clead_jax.evaluation.classifier import Compiled

FRESH = 10
APART = 2**31 - 1  # folded into the key, so that no attack has met these draws


def fresh_draws(model: Compiled, images: np.ndarray, labels: np.ndarray, key: Key) -> dict[str, float]:
    """{"n", "mean", "worst"}: of images [N, H, W, C], each shown to the model n times, the mean share of right answers
    and the share that is right every time. Users of a model meet the first, users who may be asked again the second.
    """

    def right(draw: int) -> np.ndarray:
        logits = model.logits(images, jax.random.fold_in(jax.random.fold_in(key, APART), draw))
        return np.isfinite(logits).all(1) & (logits.argmax(1) == labels)

    hits = np.stack([right(draw) for draw in range(FRESH)])
    return {"n": FRESH, "mean": float(hits.mean()), "worst": float(hits.all(0).mean())}
