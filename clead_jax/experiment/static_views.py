"""Static views: attacked versions of the training images, made once before a stage, on the frozen weights of another.

WORKDIR/views/<stage>-<n>.npz    "images" uint8 [N, H, W, C], rounded to 8 bits as image files are, in the order of the
                                 training images; "made_of", a fingerprint of all that they depend on

The images are attacked as they are; a step augments them anew. A file that is damaged, or was made of other weights,
images or settings, is made again. All images, and their views, are in the host's memory meanwhile. Making them is
spread over the devices and goes on where it was stopped, as an attack in an evaluation does, and its passes stand in
metrics.jsonl at step 0.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np

from clead_jax import data
from clead_jax.core import numerics, sharding
from clead_jax.core.progress import log
from clead_jax.core.types import NamedAttack, PyTree, fingerprint
from clead_jax.evaluation.budget import lines
from clead_jax.evaluation.classifier import Compiled
from clead_jax.evaluation.runner import run_attacks
from clead_jax.experiment.context import Run
from clead_jax.experiment.stages import Stage
from clead_jax.results import files
from clead_jax.training.metric_writer import MetricWriter

FORM = {"images": ("u", 4), "made_of": ("U", 0)}


def stored(run: Run, stage: Stage, reference: PyTree, writer: MetricWriter) -> np.ndarray | None:
    """uint8 [N, S, H, W, C], the static views of all training images, read or made; None for a stage without any.

    Raises FloatingPointError if the model that is attacked is not finite.
    """
    if not stage.stored:
        return None
    source = dataclasses.replace(run.classifier, variables=reference)
    model, folder = run.compiled(source), Path(run.workdir, "views")
    paths = [folder / f"{stage.name}-{number}.npz" for number in range(1, len(stage.stored) + 1)]
    each = [_one(run, stage, model, named, path, writer) for named, path in zip(stage.stored, paths, strict=True)]
    return np.stack(each, axis=1)


def _one(run: Run, stage: Stage, model: Compiled, named: NamedAttack, path: Path, writer: MetricWriter) -> np.ndarray:
    """One static view of all training images, uint8 [N, H, W, C]."""
    examples, key = data.in_memory(run.splits.train), jax.random.fold_in(stage.key, 2)
    depends = {"network": run.network_fields, "weights": model.classifier.fingerprint, "attack": named.name}
    told = json.dumps(depends | named.settings | {"key": np.asarray(numerics.plain(key)).tolist()}, sort_keys=True)
    made_of = fingerprint(examples.images, examples.labels, examples.index, told)
    if (found := _read(path, made_of)) is not None:
        return found
    say = lambda line: log.info(f"{stage.name}: static views: {line}")
    say(f"{named.name} of {len(examples.labels):,} images, kept in {path}")
    began, progress = time.monotonic(), path.with_suffix(".progress.npz")
    finding = run_attacks(
        model,
        examples,
        [named],
        key=key,
        num_classes=model.classifier.num_classes,
        keep=len(examples.labels),
        early_stop=False,
        strict=True,
        path=progress,
        heard=lines(say, "", False),
        clock=sharding.shared_clock(),
        writes=sharding.is_main(),
    )
    images = np.round(255 * finding.images).astype(np.uint8)
    if sharding.is_main():
        files.save_arrays(path, {"images": images, "made_of": np.asarray(made_of)}, compress=False)
        progress.unlink(missing_ok=True)
    passes = max(int(made[named.name].sum()) for made in (finding.forward, finding.backward))
    spent = {"passes": passes, "seconds": round(time.monotonic() - began, 3)}
    writer.write({"stage": stage.name, "step": 0, "epoch": 0, **spent})
    return images


def _read(path: Path, made_of: str) -> np.ndarray | None:
    """The images of a file; None, with a line that says why, where they have to be made."""
    try:
        found = files.load_arrays(path)
        if found and {name: (a.dtype.kind, a.ndim) for name, a in found.items()} != FORM:
            raise ValueError(f"{path} holds no views")
    except ValueError as error:
        log.warning(f"static views are made again: {str(error).removesuffix(f'; {files.AGAIN}')}")
        return None
    if found and str(found["made_of"]) != made_of:
        log.info(f"static views are made again: {path} was made of other weights, images or settings")
    return found["images"] if found and str(found["made_of"]) == made_of else None
