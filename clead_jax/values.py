"""How a config writes values: numbers in [0, 1] units (\"8/255\"), comma-separated lists, names with settings."""

import math
import re
from typing import Any


def number(text: Any, name: str = "number") -> float:
    """'8/255', '0.1' or 0.1 -> float. Raises ValueError naming `name` for anything else, NaN and infinity too."""
    match = re.fullmatch(r"\s*([-+.\deE]+)\s*(?:/\s*([-+.\deE]+)\s*)?", str(text))
    try:
        if match is None:
            raise ValueError
        value = float(match[1]) / float(match[2] or 1)
        if not math.isfinite(value):
            raise ValueError
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{name}: {str(text)!r} is no number; write 0.1 or 8/255") from None
    return value


def whole(text: Any, name: str = "number") -> int:
    """'20' -> 20. Raises ValueError naming `name` for what is no whole number."""
    value = number(text, name)
    if value != int(value):
        raise ValueError(f"{name}: {text!r} is no whole number")
    return int(value)


def items(text: str) -> tuple[str, ...]:
    """'a,b(c=1,d=2)' -> ('a', 'b(c=1,d=2)'): splits at the commas outside parentheses."""
    return tuple(part.strip() for part in re.split(r",(?![^(]*\))", text) if part.strip())


def spec(text: str) -> tuple[str, dict[str, str]]:
    """'pgd(steps=10,eps=4/255)' -> ('pgd', {'steps': '10', 'eps': '4/255'}). Raises ValueError if it does not parse."""
    match = re.fullmatch(r"([\w-]+)(?:\((.*)\))?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no name with settings; write pgd or pgd(steps=10,eps=4/255)")
    settings = {}
    for part in items(match[2] or ""):
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{text!r}: {part!r} is no setting; write name=value")
        settings[key.strip()] = value.strip()
    return match[1], settings


def unit(text: Any, name: str, norm: str = "linf") -> float:
    """`number`, refused outside [0, 1] where the norm is linf (pixels lie in [0, 1]), below 0 elsewhere."""
    value = number(text, name)
    if value < 0 or (norm == "linf" and value > 1):
        raise ValueError(f"{name} is {text}; under {norm} it lies in {'[0, 1]' if norm == 'linf' else '[0, inf)'}")
    return value
