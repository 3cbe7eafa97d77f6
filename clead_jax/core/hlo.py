"""What a compiled program does, read from the text of its HLO: collectives and convolutions, as often as they run.

The text is what `jax.stages.Compiled.as_text()` gives, of any backend. What stands in the body of a loop counts as
often as the loop runs, where XLA knows that ("known_trip_count"), else once; of a condition's branches all count.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

KINDS = (
    *("all-reduce", "all-gather", "all-to-all", "reduce-scatter"),
    *("collective-permute", "collective-broadcast", "ragged-all-to-all"),
)
SMALL = 2**16  # bytes
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}  # others say them: f32, s8, f8e4m3fn
_INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\(.*?\)|\S+) (?P<opcode>[a-z][\w-]*)\(")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.-]+) (?:\(.*\) -> .* )?\{$")
_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\](?:\{([\d,]*)[^}]*\})?")
_CALLED = re.compile(r"\b(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_LABELS = re.compile(r"dim_labels=(\w+)_(\w+)->(\w+)")


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    text: str


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind: how many run, the bytes of their results on one device, and how many are small."""

    count: int
    bytes: int
    small: int = 0  # with less than `SMALL` bytes each: what they cost is not how much they send


@dataclass(frozen=True, order=True)
class Convolution:
    """Convolutions alike: the type of their result, the order of its axes in memory, what runs them, and how many."""

    dtype: str
    layout: str  # NHWC, NCHW
    by: str  # cuDNN, XLA
    count: int


def collectives(text: str) -> dict[str, Collective]:
    """Kind -> how often it runs and what it sends; without those that there are none of.

    One that starts and is done in two instructions counts where it is done, whose shape is that of the result.
    """
    found: dict[str, Collective] = {}
    for instruction, times in executed(text):
        kind = instruction.opcode.removesuffix("-done")
        if kind in KINDS:
            before, size = found.get(kind, Collective(0, 0)), num_bytes(instruction.shape)
            small = before.small + times * (size < SMALL)
            found[kind] = Collective(before.count + times, before.bytes + times * size, small)
    return found


def convolutions(text: str) -> list[Convolution]:
    """Those of each kind, the most frequent first."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for instruction, times in executed(text):
        by = _runs_convolution(instruction)
        labels = _LABELS.search(instruction.text)
        if by and labels:
            dtype, layout = _dtype_and_layout(instruction, labels)
            counts[dtype, layout, by] += times
    return [Convolution(*kind, count) for kind, count in counts.most_common()]


def _runs_convolution(instruction: Instruction) -> str:
    if instruction.opcode == "convolution":
        return "XLA"
    target = re.search(r'custom_call_target="([^"]*conv[^"]*)"', instruction.text, re.IGNORECASE)
    if instruction.opcode != "custom-call" or not target:
        return ""
    return "cuDNN" if "cudnn" in target[1] else target[1].strip("_").partition("$")[0]


def _dtype_and_layout(instruction: Instruction, labels: re.Match) -> tuple[str, str]:
    """Of the result, an image or, where the gradient of a kernel is computed, a kernel."""
    result = _ARRAY.search(instruction.shape)
    assert result, instruction.text
    dtype, _, order = result.groups()
    backward_filter = "BackwardFilter" in instruction.text
    axes = labels[2] if backward_filter else labels[3]
    if not order:
        order = ",".join(map(str, reversed(range(len(axes)))))
    in_memory = "".join(axes[int(axis)] for axis in reversed(order.split(",")))
    names = {"b": "N", "f": "C", "o": "O", "i": "I"}
    spatial = iter("HWDXYZ")
    letters = "".join(names.get(axis) or next(spatial) for axis in in_memory)
    return dtype, {"OHWI": "NHWC", "OIHW": "NCHW", "HWIO": "HWCN"}.get(letters, letters)


def executed(text: str) -> Iterator[tuple[Instruction, int]]:
    """(instruction, how often it runs) of all that a program runs, computations that others call included."""
    computations, entry = parsed(text)
    pending = [(entry, 1)]
    while pending:
        name, times = pending.pop()
        for instruction in computations.get(name, []):
            yield instruction, times
            trips = _TRIPS.search(instruction.text) if instruction.opcode == "while" else None
            repeated = times * (int(trips[1]) if trips else 1)
            pending += [(called, repeated) for called in _called(instruction)]


def parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """(computation -> its instructions, the name of the one that is the program). ValueError where there is none."""
    computations: dict[str, list[Instruction]] = {}
    entry, here = "", []
    for line in text.splitlines():
        if begun := _COMPUTATION.match(line):
            here = computations[begun["name"]] = []
            entry = begun["name"] if begun["entry"] else entry
        elif found := _INSTRUCTION.match(line):
            here.append(Instruction(found["name"], found["shape"], found["opcode"], line))
    if not entry:
        raise ValueError("the text holds no HLO program: no line begins with ENTRY")
    return computations, entry


def _called(instruction: Instruction) -> list[str]:
    names = _CALLED.findall(instruction.text)
    for several in _BRANCHES.findall(instruction.text):
        names += [name.strip().lstrip("%") for name in several.split(",")]
    return names


def num_bytes(shape: str) -> int:
    """Bytes of an array 'f32[64,3]{1,0}', or of all those of a tuple."""
    return sum(_array_bytes(dtype, dims) for dtype, dims, _ in _ARRAY.findall(shape))


def _array_bytes(dtype: str, dims: str) -> int:
    digits = re.search(r"\d+", dtype)
    bits = _BITS.get(dtype) or (int(digits[0]) if digits else 0)
    return math.ceil(math.prod(int(size) for size in dims.split(",") if size) * bits / 8)
