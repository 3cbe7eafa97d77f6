"""Hands a trained model on: writes it in several formats, reads each file again, compares and attacks it, times it.

What is written lies in a folder of its own with card.json and card.md, which say how robust the files are; nothing is
written if one of them gives other logits than the model of the work directory.
"""

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clead_jax.core import numerics, sharding
from clead_jax.core.batches import pixels
from clead_jax.core.progress import log
from clead_jax.core.registry import EXPORTERS
from clead_jax.core.types import Classifier, Examples, fingerprint
from clead_jax.evaluation.audit import audit
from clead_jax.experiment import models, throughput
from clead_jax.experiment.context import Run
from clead_jax.interop import folding, formats
from clead_jax.interop.formats import Artefact, Exportable
from clead_jax.reporting import card as cards
from clead_jax.results import files
from clead_jax.results.intervals import interval95

FOLDING, SAME = 1e-5, 1e-4  # how far logits may move by folding, and in a file: relative to the largest, if above 1
BATCH = 64  # images at a time, where a file takes any number


@dataclasses.dataclass(frozen=True)
class Shown:
    """What every file is held against."""

    images: np.ndarray  # float32 [N, H, W, C] in [0, 1]
    labels: np.ndarray
    logits: np.ndarray  # [N, K], of the work directory's model
    attacked: dict[str, np.ndarray]  # attack -> images float32 [N, H, W, C] made on that model
    asked: dict[str, Any]  # of `audit`
    settings: dict[str, Any]  # attack -> its settings, as results.json has them

    def difference(self, logits: np.ndarray) -> tuple[float, float]:
        """The largest difference from the model's logits, and the same relative to their size."""
        largest = float(np.abs(logits - self.logits).max())
        return largest, largest / max(1.0, float(np.abs(self.logits).max()))


@numerics.defaults()
@jax.default_matmul_precision("highest")
def export(
    run: Run, name: str, wanted: Sequence[str], batch_size: int | None, attacks: str, output: Path, command: str
) -> Path:
    """Writes the model `name` (see `models.resolve`; "": the defended one) to `output`, and returns card.md's path.

    `batch_size`: None for a symbolic one. Raises ValueError, one line, for an unknown format, an output that exists, a
    model that draws noise or that a format cannot hold, and for a file that is not the model.
    """
    entries = {each: EXPORTERS[each] for each in wanted or ("",)}
    if output.exists():
        raise ValueError(f"{output} exists already; name another --output, or delete it")
    model = models.resolve(name or run.defended, run.workdir, *run.which)
    if model.randomized:
        raise ValueError(f"{model.name} draws noise, which an exported file cannot")
    exportable, batch_norm = _foldable(model, batch_size, run)
    with tempfile.TemporaryDirectory() as temporary:
        made, folder = {}, Path(temporary, "export")
        folder.mkdir()
        for each, entry in entries.items():  # all of them before anything is measured
            path = folder / f"model.{entry.info['suffix']}"
            try:
                path.write_bytes(entry.value(exportable))
                made[each] = path, entry.info["load"](path, exportable)
            except ImportError as error:  # of an extra
                raise ValueError(str(error)) from error
        examples = run.examples()
        shown = _shown(run, model, examples, attacks)
        card = _header(run, model, examples, attacks, command) | {"batch_norm": batch_norm}
        card |= {"batch_size": batch_size or "symbolic", "attack_settings": shown.settings}
        card["files"] = {each: _measured(*found, shown, batch_size) for each, found in made.items()}
        shutil.copy(Path(run.workdir, "config.json"), folder)
        files.save_json(folder / "card.json", card)
        (folder / "card.md").write_text(cards.markdown(card), encoding="utf-8")
        output.parent.mkdir(parents=True, exist_ok=True)
        half = output.with_name(f"{output.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        shutil.copytree(folder, half)
        os.replace(half, output)
    return output / "card.md"


def _foldable(model: Classifier, batch_size: int | None, run: Run) -> tuple[Exportable, dict[str, Any]]:
    """The model to be written, BatchNorm folded if that hardly moves its logits, and what the card says of it."""
    forward = lambda x: model.forward(model.variables, x)
    images = pixels(run.examples().images[:BATCH])
    plain = np.asarray(jax.jit(forward)(images))
    exportable = Exportable(folding.folded(forward), model, batch_size)
    moved = np.abs(np.asarray(jax.jit(exportable.forward)(images)) - plain).max() / max(1.0, np.abs(plain).max())
    exact = bool(moved <= FOLDING)
    if not exact:
        log.info(f"export: folding BatchNorm would move logits by {moved:.1e} of the largest; it stays as it is")
        exportable = dataclasses.replace(exportable, forward=folding.folded(forward, batch_norm=False))
    count = folding.convolutions(forward, exportable.pixels) if exact else 0
    told = {"mode": "running averages of the training", "folded_convolutions": count, "moved": float(moved)}
    return exportable, told


def _shown(run: Run, model: Classifier, examples: Examples, attacks: str) -> Shown:
    threat, compiled = run.header(examples)["threat_model"], run.compiled(model)
    asked = threat | {"attacks": attacks, "seed": run.seed, "checks": False, "batch_size": compiled.batch_size}
    log.info(f"export: {attacks} on {model.name}, {len(examples.labels)} images")
    found = audit(model, examples.images, examples.labels, **asked, keep_images=True, say=log.info)
    logits = compiled.logits(examples.images)
    settings = found.results["models"]["model"].get("settings", {})
    return Shown(pixels(examples.images), examples.labels, logits, found.adversarial, asked, settings)


def _measured(path: Path, artefact: Artefact, shown: Shown, batch_size: int | None) -> dict[str, Any]:
    """What the card says of a file. Raises ValueError if it gives other logits than the model."""
    size = batch_size or BATCH
    predicted = lambda images: formats.logits(artefact, images, size).argmax(-1)
    largest, relative = shown.difference(formats.logits(artefact, shown.images, size))
    if not relative <= SAME:
        raise ValueError(f"{path.name} gives other logits than the model it was made of: they differ by {largest:.2g}")
    transferred = {name: predicted(images) == shown.labels for name, images in shown.attacked.items()}
    correct = {"clean": predicted(shown.images) == shown.labels}
    correct |= {f"{name}, made on the source model": hits for name, hits in transferred.items()}
    if artefact.classifier:
        log.info(f"export: {shown.asked['attacks']} on {path.name}")
        direct = audit(artefact.classifier, shown.images, shown.labels, **shown.asked, say=log.info)
        correct |= {f"{name}, made on the file": hits for name, hits in direct.correct.items() if name in transferred}
    correct["worst case"] = np.logical_and.reduce([*correct.values()])
    shape, sizes = shown.images.shape[1:], (batch_size,) if batch_size else throughput.FEW
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "digest": formats.digest(path.read_bytes()),
        **artefact.facts,
        "gradients": "of the file" if artefact.classifier else "none: only images made on the source model are shown",
        "largest_logit_difference": largest,
        "accuracy": {name: float(hits.mean()) for name, hits in correct.items()},
        "interval95": {name: interval95(hits.sum(), len(hits)) for name, hits in correct.items()},
        "latency": [throughput.latency(artefact.run, (n, *shape)) for n in sizes],
    }


def _header(run: Run, model: Classifier, examples: Examples, attacks: str, command: str) -> dict[str, Any]:
    """What the card says of the model, the images and the threat."""
    own = {"name": model.name, "num_classes": model.num_classes, "image_shape": list(model.image_shape)}
    return {
        "model": own | dict(model.metadata),
        "pixels": "float32 [B, H, W, C] in [0, 1]; normalisation is inside",
        **run.header(examples),
        "images": fingerprint(examples.images, examples.labels),
        "attacks": attacks,
        "seed": run.seed,
        "command": command,
        "environment": sharding.machine(),
    }
