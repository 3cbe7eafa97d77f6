"""What all checks share: the form of a verdict, and how much of a difference is chance."""

from typing import Any

import numpy as np


def check(name: str, status: str, value: Any, hint: str = "") -> dict[str, Any]:
    """One check as it stands in results.json. `status` is ok, warn, fail or skipped; `hint` says what to do, or why."""
    return {"name": name, "status": status, "value": value, "hint": hint}


def slack(n: int, share: float = 0.03) -> float:
    """How many of n images one attack may find and a better one miss, by chance: at least 2."""
    return max(2.0, share * n)


def chance(labels: np.ndarray) -> float:
    """What a model that ignores its input can get right: the share of the commonest label."""
    return float(np.bincount(labels).max() / len(labels))


def margins(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much the best wrong class leads, [n] from logits [n, K]: positive where misclassified, NaN for NaN."""
    logits = logits.astype(np.float64)
    right = labels[:, None] == np.arange(logits.shape[1])
    with np.errstate(invalid="ignore"):
        return np.where(right, -np.inf, logits).max(1) - np.where(right, logits, -np.inf).max(1)


def percent(share: float) -> str:
    """0.123 -> '12%'."""
    return f"{share:.0%}"
