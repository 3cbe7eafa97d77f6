"""How names and numbers read in the report: titles of models and attacks, percentages, radii, durations."""

from typing import Any

PRELIMINARY = 1000  # fewer examples than this and the intervals are wider than most differences people publish

_MODELS = {"baseline": "Without C-LEAD", "defended": "With C-LEAD"}
_STAGES = {"supervised": "With adversarial training"}  # the control: the defence is another one
_ATTACKS = {
    "clean": "Clean images",
    "fgsm": "FGSM",
    "pgd": "PGD",
    "cw": "C&W",
    "cw_l2": "C&W L2",
    "worst_case": "Worst case",
    "autoattack": "AutoAttack",
    "apgd_ce": "APGD-CE",
    "apgd_t": "APGD-T",
    "fab_t": "FAB-T",
    "square": "Square",
}
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}


def model_title(name: str, results: dict[str, Any]) -> str:
    """The heading of a model's column; a name we do not know stands for itself."""
    stage = results["models"][name].get("checkpoint", {}).get("stage", "")
    return _STAGES.get(stage, _MODELS.get(name, name))


def attack_title(name: str, results: dict[str, Any]) -> str:
    """The attack's usual name; PGD's with its number of steps, as is the custom: "PGD-20"."""
    steps = results.get("attacks", {}).get(name, {}).get("steps") if name == "pgd" else None
    return _ATTACKS.get(name, name) + (f"-{steps}" if steps else "")


def attacks_of(results: dict[str, Any]) -> list[str]:
    """The attacks in the order of the table: clean first, then as measured, the worst case last."""
    names = dict.fromkeys(name for model in results["models"].values() for name in model["accuracy"])
    return sorted(names, key=lambda name: {"clean": 0, "worst_case": 2}.get(name, 1))


def class_title(label: int, results: dict[str, Any]) -> str:
    """The class's name, or its number where the data set names no classes."""
    names = results["dataset"].get("class_names") or []
    return str(names[label]) if label < len(names) else str(label)


def percent(share: float) -> str:
    """0.617 -> "61.7"."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign: -0.043 -> "−4.3"."""
    return f"{100 * difference:+.1f}".replace("-", "−").replace("−0.0", "+0.0")


def span(interval: tuple[float, float], write: Any = percent) -> str:
    """(0.565, 0.666) -> "[56.5, 66.6]"."""
    return f"[{write(interval[0])}, {write(interval[1])}]"


def radius(norm: str, eps: float) -> str:
    """The threat model in words. L-infinity radii are read in grey levels, eps * 255; other norms as they are."""
    value = f"{255 * eps:.3g}/255 ({eps:.3g})" if norm == "linf" else f"{eps:.3g}"
    return f"{norm_title(norm)}, ε = {value}"


def norm_title(norm: str) -> str:
    """ "linf" -> "L∞"."""
    return _NORMS.get(norm, norm)


def duration(seconds: float) -> str:
    """75.3 -> "1 min 15 s"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def scalar(value: Any) -> str:
    """Any JSON value on one line: numbers to four digits, lists and objects by their parts."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {scalar(part)}" for key, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(scalar, value))
    return "none" if value is None else str(value)
