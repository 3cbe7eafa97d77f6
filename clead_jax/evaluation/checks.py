"""Doubts about an evaluation, each with its value and what to do: {"name", "status", "value", "hint"}.

`status` is ok, warn, fail or skipped. These are the ones that need nothing but the per-example records.
"""

from typing import Any

import numpy as np

PRELIMINARY = 1000
SLACK = 2  # images: two attacks with other random starts differ by that much by chance


def check(name: str, status: str, value: Any, hint: str = "") -> dict[str, Any]:
    """One check as it stands in results.json."""
    return {"name": name, "status": status, "value": value, "hint": hint}


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
