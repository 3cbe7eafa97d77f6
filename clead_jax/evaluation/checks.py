"""What all checks share: the form of a verdict, and how much of a difference is chance."""

from typing import Any

import numpy as np

from clead_jax.statistics import PRELIMINARY

SLACK = 2  # images: two attacks with other random starts differ by that much by chance


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


def sample_size(n: int) -> dict[str, Any]:
    """Fewer than 1,000 examples are a preliminary result: the interval is wide."""
    if n >= PRELIMINARY:
        return check("sample_size", "ok", n)
    return check(
        "sample_size", "warn", n, f"preliminary: fewer than {PRELIMINARY} examples; read the interval, not the mean"
    )


def iterative_weaker_than_one_step(records: dict[str, np.ndarray], model: str) -> dict[str, Any]:
    """PGD must leave no more standing than FGSM does (Carlini et al., arXiv 1902.06705, Sec. 4): else gradients lie."""
    name = f"iterative_vs_one_step/{model}"
    if f"{model}/fgsm" not in records or f"{model}/pgd" not in records:
        return check(name, "skipped", None, "needs both fgsm and pgd")
    gap = int(records[f"{model}/pgd"].sum()) - int(records[f"{model}/fgsm"].sum())
    if gap <= SLACK:
        return check(name, "ok", gap)
    return check(
        name, "fail", gap, f"{gap} more images survive PGD than FGSM: masked gradients, or a step size that is off"
    )


def undefended_falls(records: dict[str, np.ndarray], model: str, num_classes: int) -> dict[str, Any]:
    """An undefended model should fall far below its clean accuracy; if not, the attacks or the radius are too weak."""
    name = f"undefended_falls/{model}"
    if f"{model}/pgd" not in records or f"{model}/clean" not in records:
        return check(name, "skipped", None, "needs clean and pgd on the undefended model")
    clean, robust = float(records[f"{model}/clean"].mean()), float(records[f"{model}/pgd"].mean())
    value = {"clean": clean, "pgd": robust}
    if robust <= max(clean / 2, 1 / num_classes):
        return check(name, "ok", value)
    return check(name, "warn", value, "the undefended model keeps over half its accuracy: a larger eps would tell more")
