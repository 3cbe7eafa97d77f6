"""How names and numbers read in the report: titles of models and attacks, percentages, radii."""

from typing import Any

from clead_jax.core import spec

_STAGES = {
    "baseline": "Without C-LEAD",
    "probe": "With C-LEAD",
    "supervised": "With adversarial training",
    "joint": "With joint training",
}
_ROLES = {"baseline": "baseline", "defended": "probe"}  # labels that the evaluation gives, and their usual stages
_ACRONYMS = (
    "fgsm",
    "bim",
    "mi_fgsm",
    "pgd",
    "apgd_ce",
    "apgd_dlr",
    "apgd_t",
    "fab",
    "fab_t",
    "pma",
    "mm",
    "fmn",
    "ddn",
)
_ATTACKS = {name: name.upper().replace("_", "-") for name in _ACRONYMS} | {
    **{"clean": "Clean images", "noise": "Random noise", "worst_case": "Worst case"},
    **{"cw": "C&W", "cw_l2": "C&W L2", "square": "Square", "autoattack": "AutoAttack"},
}
_BATCH_STATS = {"frozen": "BN frozen", "reestimate": "BN re-estimated"}  # of a classifier on a frozen backbone
_NORMS = {"linf": "L∞", "l2": "L2", "l1": "L1"}


def model_title(name: str, results: dict[str, Any]) -> str:
    """The heading of a model's column: by the stage that trained it, unless the user chose another label for it.

    A stage without a title of its own is shown by its name. Two models never have the same heading.
    """
    titles = {label: _model_title(label, model, results) for label, model in results["models"].items()}
    first = next(label for label, title in titles.items() if title == titles[name])
    return titles[name] if name == first else f"{titles[name]} ({name})"


def _model_title(label: str, model: dict[str, Any], results: dict[str, Any]) -> str:
    checkpoint = model.get("checkpoint", {})
    stage = checkpoint.get("stage", _ROLES.get(label, label))
    title = _STAGES.get(stage, stage) if label in (*_ROLES, stage) else label
    before = [name for name in results.get("training_cost", {}) if name not in ("baseline", "probe")]
    if title == _STAGES["probe"] and before and "pretrain" not in before:  # the probe of another method
        title = f"With {' + '.join(before)}"
    kind = ", ".join(filter(None, [checkpoint.get("weights"), _BATCH_STATS.get(model.get("batch_stats", ""))]))
    return f"{title} ({kind})" if kind else title


def attack_title(name: str, results: dict[str, Any]) -> str:
    """The attack's usual name, with the settings it was given: "pgd(steps=100,restarts=5)" -> "PGD-100 (restarts 5)".

    PGD always carries its number of steps, as is the custom.
    """
    try:
        attack, own = spec.parse(name)
    except ValueError:
        return name
    title = _ATTACKS.get(attack, attack)
    if attack == "pgd":
        steps = results.get("attacks", {}).get(name, {}).get("steps", own.pop("steps", None))
        title += f"-{steps}" if steps else ""
    settings = ", ".join(f"{key} {value}" for key, value in own.items())
    return f"{title} ({settings})" if settings else title


def column_title(name: str, settings: dict[str, Any]) -> str:
    """`attack_title` where runs are compared: another version of AutoAttack and a stopped attack are marked."""
    title = attack_title(name, {"attacks": {name: settings}})
    title += f" {settings['version']}" if settings.get("version", "standard") != "standard" else ""
    return title if settings.get("complete", True) else f"{title}, stopped early (upper bound)"


def attacks_of(results: dict[str, Any]) -> list[str]:
    """The attacks in the order of the table: clean first, then as measured, last the worst case, if of anything."""
    names = dict.fromkeys(name for model in results["models"].values() for name in model["accuracy"])
    if not names.keys() - {"clean", "worst_case"}:
        names.pop("worst_case", None)
    return sorted(names, key=lambda name: {"clean": 0, "worst_case": 2}.get(name, 1))


def worst_case_over(model: dict[str, Any]) -> list[str]:
    """The attacks that a model's worst case is made of, in the order they were measured."""
    over = model.get("worst_case_over", model["accuracy"])
    return [name for name in model["accuracy"] if name in over and name not in ("clean", "worst_case")]


def is_bound(attack: str, entry: dict[str, Any]) -> bool:
    """Whether an accuracy is only an upper bound: a budget stopped the attack, or one of those of the worst case."""
    if attack == "worst_case":
        return not {*entry.get("incomplete", ())}.isdisjoint(worst_case_over(entry))
    return attack in entry.get("incomplete", ()) or (attack != "clean" and not entry.get("complete", True))


def accuracy(attack: str, entry: dict[str, Any]) -> str | tuple[str, str]:
    """An accuracy in % and its 95 % interval, with "≤" where it is only a bound."""
    if attack not in entry.get("accuracy", {}):
        return "not measured"
    interval, sign = entry.get("interval95", {}).get(attack), "≤ " if is_bound(attack, entry) else ""
    return sign + percent(entry["accuracy"][attack]), span(interval) if interval else ""


def class_title(label: int, results: dict[str, Any]) -> str:
    """The class's name, or its number where the data set names no classes."""
    names = results["dataset"].get("class_names") or []
    name = names[label] if 0 <= label < len(names) else str(label)
    return name if len(name) <= 40 else f"{name[:39]}…"


def percent(share: float) -> str:
    """0.617 -> "61.7"."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A difference of two shares in percentage points, with its sign: -0.043 -> "−4.3"."""
    return f"{100 * difference:+.1f}".replace("-", "−").replace("−0.0", "+0.0")


def span(interval: tuple[float, float], write: Any = percent) -> str:
    """(0.565, 0.666) -> "[56.5, 66.6]"."""
    return f"[{write(interval[0])}, {write(interval[1])}]"


def radius(norm: str, eps: float, **more: object) -> str:
    """The threat model in words. L-infinity radii are read in grey levels, eps * 255; other norms as they are."""
    value = f"{255 * eps:.3g}/255 ({eps:.3g})" if norm == "linf" else f"{eps:.3g}"
    return f"{norm_title(norm)}, ε = {value}"


def measurement(results: dict[str, Any]) -> str:
    """What was measured: "digits, 360 test images, L∞, ε = 25.5/255 (0.1)"."""
    data = results["dataset"]
    return f"{data['name']}, {data['num_examples']:,} {data['split']} images, {radius(**results['threat_model'])}"


def norm_title(norm: str) -> str:
    """ "linf" -> "L∞"."""
    return _NORMS.get(norm, norm)


def scalar(value: Any) -> str:
    """Any JSON value on one line: numbers to four digits, lists and objects by their parts, nested ones bracketed."""
    if value in (None, "", [], {}):
        return "—"
    part = lambda inner: f"({scalar(inner)})" if isinstance(inner, dict | list) and inner else scalar(inner)
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case dict():
            return ", ".join(f"{key} {part(inner)}" for key, inner in value.items())
        case list():
            return ", ".join(map(part, value))
    return str(value)
