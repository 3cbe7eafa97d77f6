"""How values are written: numbers in [0, 1] units (\"8/255\"), lists with commas, names with settings, durations."""

import dataclasses
import math
import numbers
import re
import typing
from typing import Any

PRECISIONS = ("float32", "bfloat16")


def number(text: Any, name: str = "number") -> float:
    """'8/255', '0.1' or 0.1 -> float. Raises ValueError naming `name` for anything else, NaN and infinity too."""
    match = re.fullmatch(r"\s*([-+.\deE]+)\s*(?:/\s*([-+.\deE]+)\s*)?", str(text))
    try:
        value = float(match[1]) / float(match[2] or 1) if match else math.nan
    except (ValueError, ZeroDivisionError):
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{name}: {str(text)!r} is no number; write 0.1 or 8/255")
    return value


def whole(text: Any, name: str = "number", least: float = -math.inf, most: float = math.inf) -> int:
    """'20' -> 20. Raises ValueError naming `name` for what is no whole number, or none in [least, most]."""
    value = number(text, name)
    if value != int(value):
        raise ValueError(f"{name}: {text!r} is no whole number")
    if not least <= value <= most:
        raise ValueError(f"{name} is {text}; it lies in [{least:g}, {most:g}]")
    return int(value)


def check_ranges(cfg: Any, **ranges: str) -> None:
    """Raises ValueError for a number of the dataclass `cfg` outside its range, as lr="(0, inf)"; NaN lies in none.

    What is declared as int must be whole. None, and what jit traces, passes.
    """
    declared = {field.name: field.type for field in dataclasses.fields(cfg)}
    for name, allowed in ranges.items():
        given, (low, high) = getattr(cfg, name), map(float, allowed[1:-1].split(","))
        if not isinstance(given, numbers.Real):
            continue
        value, wanted = float(given), f"lie in {allowed}"
        inside = low <= value <= high and (value != low or allowed[0] == "[") and (value != high or allowed[-1] == "]")
        if allowed[0] == "[" and value < low:
            wanted = f"be at least {low:g}" if low else "not be negative"
        if inside and declared[name] is int and (isinstance(given, bool) or not isinstance(given, numbers.Integral)):
            inside, wanted = False, "be a whole number"
        if not inside:
            raise ValueError(f"{name} must {wanted}, got {given}")


def split(text: str, sign: str) -> list[str]:
    """'a+b(c+d)+' -> ['a', 'b(c+d)', '']: splits at every sign outside parentheses."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == sign and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def items(text: str) -> tuple[str, ...]:
    """'a,b(c=1,d=2)' -> ('a', 'b(c=1,d=2)'): what stands between the commas outside parentheses."""
    return tuple(filter(None, split(text, ",")))


def parse(text: str) -> tuple[str, dict[str, str]]:
    """'pgd(steps=10,eps=4/255)' -> ('pgd', {'steps': '10', 'eps': '4/255'}). Raises ValueError if it does not parse.

    A value may be a list: 'autoattack(attacks=pgd(steps=10),square)' -> {'attacks': 'pgd(steps=10),square'}.
    """
    match = re.fullmatch(r"([\w-]+)(?:\((.*)\))?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no name with settings; write pgd or pgd(steps=10,eps=4/255)")
    settings: dict[str, str] = {}
    for part in items(match[2] or ""):
        key, equals, value = part.partition("=")
        if equals and "(" not in key:
            settings[key.strip()] = value.strip()
        elif settings:
            settings[list(settings)[-1]] += f",{part}"
        else:
            raise ValueError(f"{text!r}: {part!r} is no setting; write name=value")
    return match[1], settings


def with_setting(text: str, name: str, value: Any) -> str:
    """'pgd(steps=3)', 'eps', '4/255' -> 'pgd(steps=3,eps=4/255)'."""
    head, _, rest = text.strip().partition("(")
    return f"{head}({','.join([*items(rest.removesuffix(')')), f'{name}={value}'])})"


def settings(text: str, kind: str, config: type, defaults: dict[str, Any]) -> Any:
    """'mine(margin=0.2)' -> an instance of the dataclass `config`; what stands in parentheses overrides `defaults`.

    Defaults that the dataclass lacks are left out. Raises ValueError for a setting that it lacks, naming those of this
    `kind` ("attack", "loss"), and for a value that is not of its field's type.
    """
    name, own = parse(text)
    fields = [field.name for field in dataclasses.fields(config)]
    for key in own:
        if key not in fields:
            raise ValueError(f"{kind} {name!r} has no setting {key!r}; it has {', '.join(fields) or 'none'}")
    types, given = typing.get_type_hints(config), {**defaults, **own}
    typed = {k: _typed(v, types[k], f"{text}: {k}") for k, v in given.items() if k in fields}
    try:
        return config(**typed)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from None


def _typed(value: Any, wanted: Any, name: str) -> Any:
    if typing.get_origin(wanted) is tuple:  # "1:3", or numbers already
        return tuple(number(v, name) for v in (value.split(":") if isinstance(value, str) else value))
    if wanted is bool:
        if str(value).lower() not in ("true", "false"):
            raise ValueError(f"{name}: {value!r} is neither true nor false")
        return str(value).lower() == "true"
    if wanted is str:
        return str(value)
    return whole(value, name) if wanted is int else number(value, name)


def visible(text: str) -> str:
    """The text on one line that can be written anywhere: control signs and lone surrogates as escapes."""
    hidden = r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
    return re.sub(hidden, lambda sign: sign[0].encode("unicode_escape").decode(), text)


def unit(text: Any, name: str, norm: str = "linf", size: float = math.inf) -> float:
    """`number`, refused below 0, and where it is more than two images of `size` pixels in [0, 1] can be apart."""
    value, most = number(text, name), {"linf": 1.0, "l2": size**0.5}.get(norm, size)
    if not 0 <= value <= most:
        end = ")" if most == math.inf else "]" if norm == "linf" else "], as no two images are further apart"
        raise ValueError(f"{name} is {text}; under {norm} it lies in [0, {most:g}{end}")
    return value


def duration(seconds: float) -> str:
    """4.23 -> '4.2 s'; 42 -> '42 s'; 75 -> '1 min 15 s'; 3723 -> '1 h 02 min'."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if whole < 10 else f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def budget(text: str) -> tuple[float, float]:
    """'90s', '10m', '2h' -> (seconds, inf); '2000passes' -> (inf, passes per image); '' -> (inf, inf)."""
    if text in ("", None):
        return math.inf, math.inf
    match = re.fullmatch(r"\s*([\d.]+)\s*(s|m|h|passes)\s*", str(text))
    if match is None:
        raise ValueError(f"budget: {text!r} is none; write 90s, 10m, 2h or 2000passes (per image)")
    if not (amount := number(match[1], "budget")):
        raise ValueError(f"budget is {text!r}, with which nothing can be measured; leave it out for no limit")
    return (math.inf, amount) if match[2] == "passes" else (amount * {"s": 1, "m": 60, "h": 3600}[match[2]], math.inf)


def memory(count: float) -> str:
    """A number of bytes: 7.4e9 -> '6.89 GiB'; below a tenth of one in MiB, below a tenth of those in KiB."""
    unit, size = next((of for of in (("GiB", 2**30), ("MiB", 2**20)) if count >= of[1] / 10), ("KiB", 2**10))
    return f"{count / size:,.0f} {unit}" if count >= 100 * size else f"{count / size:.3g} {unit}"
