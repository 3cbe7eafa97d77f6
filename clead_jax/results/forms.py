"""What the files of a run may hold, and the one check at the doors that read them.

A form says what a JSON value must be:

    str, bool              text, yes or no
    Number(low, high)      a finite number in this range, a whole one if `whole`
    {"a", "b"}             one of these
    (form, None)           that, or null
    [form]; [form, form]   a list of any length; of this length
    {"a": form, "b?": form, str: form}
                           an object that has "a" and may have "b"; the others are of the last form, or anything
    object                 anything, in at most `DEPTH` levels
"""

import reprlib
from typing import Any, NamedTuple

import numpy as np

DEPTH, LENGTH, MOST = 40, 10_000, 1e15
Arrays = dict[str, np.ndarray]


class Number(NamedTuple):
    """A range, its ends included."""

    low: float = -MOST
    high: float = MOST
    whole: bool = False


def check(value: Any, form: Any, where: str = "it") -> None:
    """Raises ValueError, one line that names the field, for a value that is not of the form."""
    if isinstance(form, Number):
        kind = isinstance(value, int if form.whole else int | float) and not isinstance(value, bool)
        _require(kind and form.low <= value <= form.high, value, where, _said(form))
    elif isinstance(form, tuple):
        check(value, form[0], where) if value is not None else None
    elif isinstance(form, set):
        _require(isinstance(value, str | int) and value in form, value, where, " or ".join(map(repr, sorted(form))))
    elif isinstance(form, list):
        fits = isinstance(value, list) and len(form) in (1, len(value))
        _require(fits, value, where, f"a list of {len(form)}" if len(form) > 1 else "a list")
        for number, inner in enumerate(value):
            check(inner, form[number % len(form)], f"{where}[{number}]")
    elif isinstance(form, dict):
        _require(isinstance(value, dict), value, where, "an object")
        named = {name.removesuffix("?") for name in form if name is not str}
        if missing := [name for name in form if name is not str and name[-1] != "?" and name not in value]:
            raise ValueError(f"{where} lacks {missing[0]!r}")
        for name, inner in value.items():
            own = form.get(name, form.get(f"{name}?")) if name in named else form.get(str, object)
            _require(len(name) <= 300, name, where, "of shorter names")
            check(inner, own, name if where == "it" else f"{where}.{name}")
    elif form is object:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        _require(not (inner and where.count(">") > DEPTH), value, where, f"at most {DEPTH} levels deep")
        for each in inner:
            check(each, object, f"{where}>")
    else:
        _require(isinstance(value, form) and not (form is str and len(value) > LENGTH), value, where, _said(form))


def _said(form: Any) -> str:
    if not isinstance(form, Number):
        return {str: "text", bool: "true or false"}[form]
    said = "a whole number" if form.whole else "a number"
    return said + (f" in [{form.low:g}, {form.high:g}]" if form.high < MOST else f" from {form.low:g} on")


def _require(right: bool, value: Any, where: str, wanted: str) -> None:
    if not right:
        raise ValueError(f"{reprlib.repr(where)[1:-1].rstrip('>')} is {reprlib.repr(value)}; it must be {wanted}")


def check_arrays(arrays: Arrays, forms: dict[str, tuple[str, int]]) -> None:
    """Raises ValueError for an array that is not of the form that the end of its name has: (kinds of its type, axes).

    All have as many rows, at least one. Numbers are finite; whole ones are classes or places, -1 for none.
    """
    rows = len(next((a for a in arrays.values() if a.ndim), ()))
    for name, array in arrays.items():
        kinds, axes = next(form for end, form in forms.items() if name.endswith(end))
        if array.dtype.kind not in kinds or array.ndim != axes or len(array) != rows or array.size < 1:
            wanted = f"{' or '.join(_KINDS[kind] for kind in kinds)} with {axes} axes and {max(1, rows)} rows"
            raise ValueError(f"{name!r} is {array.dtype} of shape {array.shape}; it must be {wanted}")
        low, high = (-MOST, MOST) if "f" in kinds else (-1, 2**31)
        if "b" not in kinds and not ((array >= low) & (array <= high)).all():
            raise ValueError(f"{name!r} holds a number that is not finite or out of range")


_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float"}
_CLASSES = ("iu", 1)
PER_EXAMPLE = {"index": _CLASSES, "label": _CLASSES, "": ("b", 1)}
SAMPLES = {"index": _CLASSES, "label": _CLASSES, "/prediction": _CLASSES, "": ("f", 4)}
EMBEDDINGS = {"label": _CLASSES, "": ("f", 2)}

COUNT, AMOUNT, SHARE = Number(0, whole=True), Number(0), Number(0, 1)
SETTINGS = {str: {str: object}}
_CHECKS = [{"name": str, "status": {"fail", "warn", "ok", "skipped"}, "value": object, "hint": str}]
_MEASURED = {"accuracy": {str: SHARE}, "interval95?": {str: [SHARE, SHARE]}, "settings?": SETTINGS}
_MEASURED |= {"complete?": bool, "incomplete?": [str]}
_CHECKPOINT = {"stage": str, "which": str, "fingerprint": str, "weights?": str}
_DRAWS = {"n": Number(1, 1e6, whole=True), "mean": SHARE, "worst": SHARE}
_MODEL = _MEASURED | {"checkpoint": _CHECKPOINT, "worst_case_over?": [str], "checks?": _CHECKS}
_MODEL |= {"batch_stats?": {"frozen", "reestimate"}}  # of a model whose backbone its stage did not train
_MODEL |= {"draws?": {str: _DRAWS}}
_PASSES = {str: {"forward": AMOUNT, "backward": AMOUNT}}
_SUITE = _MEASURED | {"attacks?": [str], "notes?": [str], "passes?": _PASSES, "seconds?": AMOUNT}
_SUITE |= {"version?": str, "precision?": str}
_MADE = {"settings": {str: object}, "fingerprint": object}
_TRANSFERRED = _MEASURED | {"source?": str, "made_by?": {str: _MADE}}
_DISTANCE = {"success": SHARE, "num_examples": COUNT, "median": (AMOUNT, None), "mean": (AMOUNT, None)}
_CORRUPTIONS = {"accuracy": {str: 5 * [SHARE]}, "mean": SHARE, "worst": SHARE, "num_examples": COUNT}
_CLUSTERS = dict.fromkeys(("intra", "inter", "silhouette"), (Number(), None))
_CURVES = {"attack?": str, "eps?": [AMOUNT], "accuracy?": {str: [SHARE]}, "settings?": {str: object}}
RESULTS: dict[Any, Any] = {
    "schema": {1},
    "dataset": {
        **{"name": str, "split": str, "num_examples": Number(1, 1e12, whole=True)},
        **{"num_classes?": Number(1, 1e9, whole=True), "class_names?": ([str], None)},
    },
    "threat_model": {"norm": {"linf", "l2", "l1"}, "eps": AMOUNT},
    "models": {str: _MODEL},
    "attacks?": SETTINGS,
    "protocols?": {"autoattack?": {str: _SUITE}, str: {str: _TRANSFERRED}},
    "curves?": _CURVES | {"num_examples?": Number(1, 1e12, whole=True)},
    "distances?": {str: {str: _DISTANCE}},
    "corruptions?": {str: _CORRUPTIONS},
    "clusters?": {str: {str: _CLUSTERS}},
    "seen_attacks?": [str],
    "unseen_attacks?": [str],
    "label_use?": {str: [str]},
    "training_cost?": {str: {"forward_backward_passes": COUNT, "seconds": AMOUNT}},
    "checks?": _CHECKS,
    "environment?": {"command?": str, "config_name?": str, str: object},
    "measured?": {str: str},
    "digests?": {str: str},
}
_PAIR = {"test": COUNT, "extra": COUNT, "distance": SHARE}
EXTRA = {"name": str, "fingerprints": [str, str], "num_images": COUNT, "num_test": COUNT, "near_duplicates": COUNT}
EXTRA |= {"threshold": SHARE, "nearest": [_PAIR]}
METRICS = {"stage": str, "step": COUNT, "passes?": COUNT, "seconds?": AMOUNT, str: (Number(), None)}
CONFIG = {"name": str, "command?": str, "config": {str: object}}
