"""GPUs that programs can be compiled for where there is none: their public specifications, and devices made of them.

gpu_targets/NAME.txtpb is an XLA GpuTargetConfigProto in text form. What is compiled for it is the program that XLA
makes there, but for what it would measure on the card: which of cuDNN's and cuBLAS's algorithms is the fastest, and how
much scratch memory that takes.
"""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from clead_jax.core import sharding

FOLDER = Path(__file__).parent / "gpu_targets"
SHARE = 0.75  # of a card's memory that jax takes for itself, unless XLA_PYTHON_CLIENT_MEM_FRACTION says another


class Card(NamedTuple):
    """One kind of GPU."""

    name: str  # as on the command line
    description: str  # as the driver calls it
    memory: int  # bytes
    specification: str  # the text of its file

    @property
    def usable(self) -> int:
        """Bytes that jax takes of its memory for arrays and programs. ValueError for a share that is none."""
        given = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION", "") or str(SHARE)
        try:
            share = float(given)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise ValueError(f"XLA_PYTHON_CLIENT_MEM_FRACTION is {given!r}; it must be above 0 and at most 1")
        return int(share * self.memory)

    @property
    def record(self) -> dict[str, Any]:
        """The same as plain values."""
        return {"card": self.name, "description": self.description, "memory": self.memory, "usable": self.usable}


def names() -> list[str]:
    """Of all cards that are known."""
    return sorted(path.stem for path in FOLDER.glob("*.txtpb"))


def card(name: str) -> Card:
    """The card of this name. Raises ValueError for another one, naming those that are known."""
    if name not in names():
        raise ValueError(f"no GPU {name!r} is known to compile for; known: {', '.join(names())}")
    text = (FOLDER / f"{name}.txtpb").read_text(encoding="utf-8")
    memory, description = (_field(text, field) for field in ("device_memory_size", "device_description_str"))
    return Card(name, description, int(memory), text)


def _field(text: str, name: str) -> str:
    found = re.search(rf'^\s*{name}: "?([^"\n]+)', text, re.MULTILINE)
    if not found:
        raise ValueError(f"the specification of a GPU lacks {name}")
    return found[1]


def mesh(card: Card, devices: int) -> jax.sharding.Mesh:
    """A mesh over so many cards of one machine, to compile for and never to run on.

    Needs jax's CUDA plugin and neither GPU nor driver. Raises ValueError, one line, where that cannot be had.
    """
    try:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=card.specification, topology=f"1x1x{devices}"
        )
    except (NotImplementedError, RuntimeError, ValueError) as error:  # which of them depends on what is missing
        said = str(error).strip().partition("\n")[0]
        needs = 'it needs jax\'s CUDA plugin (no GPU): pip install "clead-jax[cuda12]"'
        raise ValueError(f"cannot compile for {card.name}: {needs} ({said})") from error
    return sharding.data_mesh(found.devices)
