"""Models to elsewhere: files that take pixels [B, H, W, C] in [0, 1] and give logits [B, K], normalisation inside.

A format is a function that makes the bytes of such a file, and one that reads them again to be compared and attacked:

    @EXPORTERS.register("name", suffix="name", load=load)
    def write(model: Exportable) -> bytes
    def load(path: Path, model: Exportable) -> Artefact

"jax" is jax.export's with its gradient, "stablehlo" the same program alone, as a portable artifact for other compilers;
"safetensors" holds the weights by their names, for the code of this package. "onnx" is in `onnx_graph`.
"""

import dataclasses
import datetime
import importlib.metadata
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from clead_jax.core.batches import padded
from clead_jax.core.registry import EXPORTERS
from clead_jax.core.types import Array, Classifier, Forward, fingerprint
from clead_jax.interop.outside import first_line, import_or_say
from clead_jax.interop.weights import by_name, load_weights

PLATFORMS = ("cpu", "cuda", "tpu")
MONTHS = 6  # that later releases of jax go on reading a file: docs.jax.dev, jax.export, "Compatibility guarantees"
RELEASED = {  # jaxlib, by PyPI: what counts is when it was built
    "0.10.2": datetime.date(2026, 6, 17),
    "0.11.0": datetime.date(2026, 7, 16),
    "0.11.1": datetime.date(2026, 8, 17),
    "0.11.2": datetime.date(2026, 9, 17),
    "0.12.0": datetime.date(2026, 10, 19),
    "0.12.0.1": datetime.date(2026, 10, 21),
}


@dataclasses.dataclass(frozen=True)
class Exportable:
    """A model to be written: `forward` maps pixels to logits and holds its weights, those of `source`."""

    forward: Forward
    source: Classifier
    batch_size: int | None = None  # None: symbolic, any

    @property
    def pixels(self) -> jax.ShapeDtypeStruct:
        """What the file takes. Raises ValueError, one line, where the model cannot be traced with that."""
        batch = (self.batch_size,) if self.batch_size else jax.export.symbolic_shape("batch")
        image = jax.ShapeDtypeStruct((*batch, *self.source.image_shape), np.float32)
        try:
            jax.eval_shape(self.forward, image)
        except Exception as error:  # of whatever kind jax, or the model's author, has chosen
            size = self.batch_size or "symbolic; write a number, --batch_size=N"
            raise ValueError(f"batch_size is {size}: the model cannot be traced ({first_line(error)})") from error
        return image


class Artefact(NamedTuple):
    """A file that was read again."""

    run: Callable[[np.ndarray], np.ndarray]  # pixels float32 [B, H, W, C] -> logits; B as the file takes it
    classifier: Classifier | None = None  # None: without a gradient
    facts: Mapping[str, Any] = {}  # how long it can be read, and the like


def logits(artefact: Artefact, images: np.ndarray, batch_size: int) -> np.ndarray:
    """Logits [N, K] of images float32 [N, H, W, C], in batches of one size."""
    return np.concatenate([artefact.run(images[rows])[:real] for rows, real in padded(len(images), batch_size)])


def digest(content: bytes) -> str:
    """16 hexadecimal digits that change with any bit of a file."""
    return fingerprint(np.frombuffer(content, np.uint8))


def readable_until(jaxlib: str) -> str | None:
    """The day up to which new releases of jax must read what this release of jaxlib writes; None: it is not known."""
    if jaxlib not in RELEASED:
        return None
    released = RELEASED[jaxlib]
    years, month = divmod(released.month - 1 + MONTHS, 12)
    return released.replace(released.year + years, month + 1, min(28, released.day)).isoformat()


def _exported(model: Exportable, platforms: tuple[str, ...]) -> jax.export.Exported:
    return jax.export.export(jax.jit(model.forward), platforms=platforms)(model.pixels)


def _load_jax(path: Path, model: Exportable) -> Artefact:
    found, jaxlib = load_exported(path), importlib.metadata.version("jaxlib")
    run = jax.jit(found.forward)
    return Artefact(
        lambda x: np.asarray(run(None, x)), found, {"jaxlib": jaxlib, "readable_until": readable_until(jaxlib)}
    )


@EXPORTERS.register("jax", suffix="jax", load=_load_jax)
def jax_file(model: Exportable) -> bytes:
    """The serialised program of jax.export with its gradient, for CPU, CUDA and TPU; see `load_exported`."""
    return bytes(_exported(model, PLATFORMS).serialize(vjp_order=1))


def load_exported(path: str | Path) -> Classifier:
    """A file of `jax_file`, or another of jax.export from float32 images [B, H, W, C] to logits, as a Classifier.

    One of a fixed batch size takes any number of images, in batches of that size. The file holds a program that XLA
    compiles and runs: open none of unknown origin. Raises ValueError, one line, for a file that is none, is damaged, or
    is not the one that a card.json beside it describes.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    content = path.read_bytes()
    if (known := _in_card(path)) not in (None, digest(content)):
        raise ValueError(f"{path} is damaged or was replaced: its digest is {digest(content)}, in card.json {known}")
    try:
        exported = jax.export.deserialize(bytearray(content))
        (taken,), (given,) = exported.in_avals, exported.out_avals
        size, *shape = taken.shape
        if (len(shape), given.ndim, taken.dtype) != (3, 2, np.float32):
            raise ValueError(f"it maps {taken} to {given}; wanted: float32 [B, H, W, C] to logits [B, K]")
    except Exception as error:  # flatbuffers and MLIR have errors of their own
        raise ValueError(f"{path} cannot be read as a model of jax.export ({first_line(error)})") from error
    call = _in_batches(exported.call, size) if isinstance(size, int) else exported.call
    facts = {"file": path.name, "digest": digest(content)}
    return Classifier(lambda variables, x: call(x), None, given.shape[1], tuple(shape), name=path.name, metadata=facts)


def _in_card(path: Path) -> str | None:
    """The digest that a card beside a file says it has; None without such a card."""
    card = path.with_name("card.json")
    try:
        files = json.loads(card.read_text("utf-8"))["files"].values() if card.is_file() else ()
        return next((each["digest"] for each in files if each["file"] == path.name), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # of something else


def _in_batches(call: Forward, size: int) -> Forward:
    """A function of `size` images as one of any number; the last batch is filled up with its first image."""

    def forward(x: Array) -> Array:
        return jnp.concatenate([call(x[rows])[:real] for rows, real in padded(len(x), size)])

    return forward


def _load_stablehlo(path: Path, model: Exportable) -> Artefact:
    """Runs the program in jax, in place of another one of the same shapes."""
    other = dataclasses.replace(model, forward=lambda x: jnp.full((x.shape[0], model.source.num_classes), x.sum()))
    program = _exported(other, PLATFORMS[:1])
    run = jax.jit(dataclasses.replace(program, mlir_module_serialized=path.read_bytes()).call)
    return Artefact(lambda x: np.asarray(run(x)), facts={"form": "a portable artifact of StableHLO"})


@EXPORTERS.register("stablehlo", suffix="stablehlo", load=_load_stablehlo)
def stablehlo(model: Exportable) -> bytes:
    """The program as a StableHLO portable artifact (MLIR bytecode), as jax lowers it for a CPU."""
    return bytes(_exported(model, PLATFORMS[:1]).mlir_module_serialized)


def _load_safetensors(path: Path, model: Exportable) -> Artefact:
    variables = load_weights(jax.tree.map(jnp.zeros_like, model.source.variables), path)
    found = dataclasses.replace(model.source, variables=variables)
    run = jax.jit(found.forward)
    return Artefact(lambda x: np.asarray(run(variables, x)), found)


@EXPORTERS.register("safetensors", suffix="safetensors", load=_load_safetensors)
def safetensors(model: Exportable) -> bytes:
    """The weights as they were trained, by their names (params.head.kernel), for `load_weights`; in the header, the
    network's description.
    """
    save = import_or_say("safetensors.numpy", "safetensors").save
    described = {"image_shape": list(model.source.image_shape), "network": model.source.metadata.get("network")}
    tensors = {name: np.asarray(leaf) for name, leaf in by_name(model.source.variables).items()}
    return save(tensors, {name: json.dumps(value) for name, value in described.items()})
