"""Names for what a config can choose: one `Registry` per kind, filled by decorators beside the code they name.

@ATTACKS.register("pgd", PGDConfig)        # a new entry is one decorator: config, CLI and contract tests find it
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A registered object, the frozen dataclass that configures it (or None) and facts for its users."""

    value: Any
    config: Any = None
    info: Mapping[str, Any] = MappingProxyType({})


class Registry:
    """Maps names to entries. Unknown names raise ValueError naming the nearest and all the known ones."""

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, config: Any = None, **info: Any) -> Callable[[Any], Any]:
        """Decorator that files its argument under `name`. Registering a name twice raises ValueError."""

        def file_under(value: Any) -> Any:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = Entry(value, config, info)
            return value

        return file_under

    def __getitem__(self, name: str) -> Entry:
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown {self.kind} {name!r}: {hint}known: {', '.join(self)}")
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries


ATTACKS = Registry("attack")
LOSSES = Registry("loss")
BACKBONES = Registry("backbone")
SOURCES = Registry("data set")
STRATEGIES = Registry("strategy")
WRAPPERS = Registry("wrapper")
EXPORTERS = Registry("format")
