"""What `benchmark --compile_for` has found: as lines on the screen, and as one table of all results/compiled-*.json."""

from pathlib import Path
from typing import Any

from clead_jax.core import spec
from clead_jax.results import files

DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}
COLUMNS = (
    *("Config", "Program", "GPU", "Batch", "In", "Memory on each GPU", "of it temporaries", "Fits", "FLOP an image"),
    *("Collectives", "Largest batch that fits"),
)


def header(found: dict[str, Any]) -> str:
    """What is compiled, and for what."""
    model, shape = found["model"], "x".join(map(str, found["image_shape"]))
    usable = f"{spec.memory(found['usable'])} of {spec.memory(found['memory'])}"
    return (
        f"{found['config']}: {model['backbone']}, width {model['width']}, {model['dtype']}, {shape} images\n"
        f"compiled for {found['devices']} x {found['description']}, of whose memory jax takes {usable}; "
        f"jax {found['jax']}, no GPU is used"
    )


def lines(what: str, told: dict[str, Any], usable: int) -> str:
    """One program, on several lines."""
    first = f"\n{what}: batch {told['batch']}, {_flops(told)} an image"
    if "error" in told:
        return f"{first}\n  does not compile: {told['error']}"
    said = [f"{first}, compiled in {told['compile_seconds']:.0f} s"]
    if need := told.get("memory"):
        parts = ", ".join(f"{name} {spec.memory(need[name])}" for name in ("arguments", "temporaries", "outputs"))
        fits = "fits" if need["peak"] <= usable else "does not fit"
        said.append(f"memory on each GPU: {spec.memory(need['peak'])} ({parts}): {fits}")
    said.append(f"collectives: {collectives(told)}")
    said.append(f"convolutions: {', '.join(map(_convolution, told.get('convolutions', []))) or 'none'}")
    if "largest_batch" in told:
        said.append(f"largest batch that fits: {told['largest_batch'] or 'none'}")
    return "\n  ".join(said)


def collectives(told: dict[str, Any]) -> str:
    """'109 all-reduce (90 small) of 94.3 MiB', or 'none'."""
    return ", ".join(_collective(kind, each) for kind, each in told.get("collectives", {}).items()) or "none"


def _collective(kind: str, each: dict[str, Any]) -> str:
    small = f" ({each['small']} small)" if each["small"] else ""
    return f"{each['count']} {kind}{small} of {spec.memory(each['bytes'])}"


def table(folder: Path) -> str:
    """A Markdown table of all that the files of a folder hold; '' where there is none.

    Raises ValueError for a file that holds something else.
    """
    paths = sorted(folder.glob("compiled-*.json"))
    rows = [row for path in paths for row in _rows(path)]
    shown = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown) if rows else ""


def _rows(path: Path) -> list[list[str]]:
    found = files.load_json(path) or {}
    try:
        return [_row(found, what, told) for what, told in found["programs"].items()]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds nothing that benchmark --compile_for has written ({error!r})") from None


def _row(found: dict[str, Any], what: str, told: dict[str, Any]) -> list[str]:
    card = f"{found['devices']} × {found['description']}"
    beginning = [found["config"], what, card, str(told["batch"]), found["model"]["dtype"]]
    if "error" in told:
        return [*beginning, "does not compile", "", "no", _flops(told), "", ""]
    need = told["memory"]
    share = f"{spec.memory(need['peak'])}, {need['peak'] / found['memory']:.0%}"
    fits = "yes" if need["peak"] <= found["usable"] else "no"
    largest = str(told["largest_batch"]) if "largest_batch" in told else "not looked for"
    return [*beginning, share, spec.memory(need["temporaries"]), fits, _flops(told), collectives(told), largest]


def _convolution(each: dict[str, Any]) -> str:
    return f"{each['count']} {DTYPES.get(each['dtype'], each['dtype'])} {each['layout']} by {each['by']}"


def _flops(told: dict[str, Any]) -> str:
    return f"{told['flops_per_image'] / 1e9:.3g} GFLOP"
