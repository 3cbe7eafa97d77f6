"""What a compiled program needs of a device's memory, and what there is."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from clead_jax.core import spec

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


class Need(NamedTuple):
    """Bytes that a program takes on one device while it runs."""

    arguments: int
    temporaries: int
    outputs: int  # those that are not written into an argument's place
    aliased: int  # those that are

    @property
    def total(self) -> int:
        """Arguments, temporaries, and outputs of their own: XLA holds all of them at once."""
        return self.arguments + self.temporaries + self.outputs


def need(compiled: Any) -> Need | None:
    """What a `jax.stages.Compiled` takes, by XLA's buffer assignment; None where the backend does not tell."""
    told = compiled.memory_analysis()
    if told is None:
        return None
    aliased = told.alias_size_in_bytes
    outputs = told.output_size_in_bytes - aliased
    return Need(told.argument_size_in_bytes, told.temp_size_in_bytes, outputs, aliased)


class Room(NamedTuple):
    """Bytes for what some devices compute: of each of them, or of the machine whose memory they share."""

    limit: int
    sharing: int = 1  # how many devices have it together

    def holds(self, needed: Need) -> bool:
        """Whether the program fits on every device."""
        return needed.total * self.sharing <= self.limit


def room(devices: Sequence[jax.Device]) -> Room:
    """What this process's `devices` have: the smallest limit that they report; on the CPU the machine's memory."""
    mine = [device for device in devices if device.process_index == jax.process_index()]
    limits = [stats["bytes_limit"] for device in mine if (stats := device.memory_stats()) and "bytes_limit" in stats]
    return Room(min(limits)) if limits else Room(of_machine(), len(mine))


def of_machine() -> int:
    """Bytes of memory in this machine, or in this container if that has less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there; "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)


def exhausted(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on the host or on a device."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error))


def line(needed: Need, room: Room) -> str:
    """'a step needs 6.9 GiB (arguments 0.3 GiB, temporaries 6.6 GiB) of 29.6 GiB'."""
    parts = f"arguments {spec.memory(needed.arguments)}, temporaries {spec.memory(needed.temporaries)}"
    where = f"on each of {room.sharing} devices, and the machine has" if room.sharing > 1 else "of"
    return f"a step needs {spec.memory(needed.total)} ({parts}) {where} {spec.memory(room.limit)}"
