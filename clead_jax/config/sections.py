"""How a section of the config behaves: a dataclass that refuses unknown fields and values of another type."""

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from clead_jax.core import spec


class Section:
    """Base of the config's dataclasses. `section.field` and `section["field"]` are the same; `update` sets several.

    A float may be written as text, "8/255". Unknown fields raise AttributeError naming the nearest, values of another
    type TypeError.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        fields = {field.name: field.type for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(fields)}"
            raise AttributeError(f"{type(self).__name__} has no field {name!r}; {hint}")
        object.__setattr__(self, name, typed(value, fields[name], name))

    def __getitem__(self, name: str) -> Any:
        return vars(self)[name]

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self, name, value)

    def __contains__(self, name: object) -> bool:
        return name in vars(self)

    def keys(self) -> Iterator[str]:
        """Names of the fields, in their order; makes `dict(section)` and `f(**section)` work."""
        return iter(vars(self))

    __iter__ = keys

    def update(self, values: Mapping[str, Any]) -> None:
        """Sets several fields, those of a section within too."""
        for name, value in values.items():
            inner = vars(self).get(name)
            inner.update(value) if isinstance(inner, Section) else setattr(self, name, value)


def typed(value: Any, wanted: Any, name: str) -> Any:
    """The value as `wanted` (a type): text and whole numbers become floats where one is wanted. TypeError otherwise.

    ValueError for a float that is NaN or infinite.
    """
    if wanted is float and isinstance(value, str | int | float) and not isinstance(value, bool):
        return spec.number(value, name)
    kind = typing.get_origin(wanted) or wanted
    if not isinstance(value, kind) or (isinstance(value, bool) and wanted is not bool):
        raise TypeError(f"{name} is {value!r}; it must be of type {kind.__name__}")
    return value


def flatten(section: Any, prefix: str = "") -> dict[str, Any]:
    """Nested sections (or dicts) -> {'a.b': value}."""
    flat: dict[str, Any] = {}
    for name in section:
        value = section[name]
        inner = isinstance(value, Section | dict)
        flat |= flatten(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return flat


def changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """'a.b: 1 -> 2, ...' for the flat fields that differ; empty if none does."""
    differ = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    return ", ".join(f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}" for name in differ)


def nested(section: Section) -> dict[str, Any]:
    """A section as plain nested dicts, for JSON."""
    return {name: nested(value) if isinstance(value := section[name], Section) else value for name in section}
