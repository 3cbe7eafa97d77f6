"""Checkpoints: a directory with one complete sub-directory per step, and functions over it.

    <directory>/120/model       params and batch statistics: all that evaluation reads, without an optimizer
    <directory>/120/weights     other weights of the step by name, such as averaged ones, where there are any
    <directory>/120/train       what resuming needs besides: optimizer state, step, what else the stage owns
    <directory>/120/step.json   facts of the caller's, the score that makes a step the "best", a checksum of every file
                                and one of itself

Steps are written, and deleted, as `120.part`: a process killed at any moment leaves complete steps and a leftover that
the next `save` removes. Reading compares the checksums first and logs which damaged steps it passes over.

All processes call `save` and `restore`; with several hosts the directory is on a file system they share.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from clead_jax.core import spec, stopping
from clead_jax.core.progress import log
from clead_jax.core.types import PyTree
from clead_jax.results import forms

RECORD = {"meta": {str: object}, "score": (forms.Number(), None), "sha256": {str: str}, "digest?": str}

logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # a failed write has tasks beside the one whose error is raised

MARGIN = 2**18  # bytes that the files of a step take beside its arrays


class Restored(NamedTuple):
    """One step as read back. `model` and `train` have the structure, types and shardings of their templates."""

    step: int
    model: PyTree
    train: PyTree
    meta: dict[str, Any]


def steps(directory: str | Path) -> list[int]:
    """The steps that are in `directory`, oldest first; empty where it does not exist."""
    root = Path(directory)
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal()) if root.is_dir() else []


@stopping.deferred()
def save(
    directory: str | Path,
    step: int,
    model: PyTree,
    train: PyTree,
    meta: dict[str, Any],
    score: float | None = None,
    weights: dict[str, PyTree] | None = None,
    keep_latest: int = 2,
) -> None:
    """Write one step, then delete all but the `keep_latest` newest and the one with the highest `score`.

    On return the step is on disk; steps at or after it, from before training fell back, are deleted. Trees hold numeric
    arrays only (ValueError otherwise). A directory that cannot be written raises a one-line OSError; the earlier steps
    stay. Ctrl-C waits for the end.
    """
    trees = {"model": model, "train": train} | ({"weights": weights} if weights else {})
    _require_numeric(trees)
    root = Path(directory).absolute()
    part = root / f"{step}.part"
    items = ocp.args.Composite(**{name: ocp.args.StandardSave(tree) for name, tree in trees.items()})
    try:
        if jax.process_index() == 0:
            _make_room(root, step, trees)
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            checkpointer.save(part, args=items)
        if jax.process_index() == 0:
            for note in list(part.rglob("commit_success.txt")):  # which orbax writes, with this machine's path in it
                note.unlink()
            record = {"meta": meta, "score": score, "sha256": _checksums(part)}
            record = json.loads(json.dumps(record, default=float))
            text = json.dumps(record | {"digest": _digest(record)}, indent=1)
            (part / "step.json").write_text(text, encoding="utf-8")
            part.rename(root / str(step))
            kept = {*steps(root)[-keep_latest:], *_best_first(root)[:1]}
            _delete(root, (old for old in steps(root) if old not in kept))
    except (OSError, ValueError, RuntimeError) as error:  # tensorstore reports a full disk as a ValueError
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0].partition(" [tensorstore_spec")[0]
        for _ in range(40):  # orbax's threads may still be writing
            halves = list(root.glob(f"{step}.part*"))
            for half in halves:
                shutil.rmtree(half, ignore_errors=True)
            time.sleep(0.05 * bool(halves))
        raise OSError(f"cannot write checkpoint {step} in {directory}: {first_line}") from error
    multihost_utils.sync_global_devices(f"checkpoint {step} written")


def restore(directory: str | Path, model: PyTree, train: PyTree, which: int | str = "latest") -> Restored | None:
    """Read a step back, or None where there is none yet; `which` is "latest", "best" or a step.

    `model` and `train` are templates: arrays, or `jax.ShapeDtypeStruct`s with a sharding, for any device count. After a
    damaged step, which is logged, "latest" goes on to the next older one, "best" to the next lower score. ValueError
    where none is sound, or the templates do not fit.
    """
    if not steps(directory):
        return None
    path, meta = _first_sound(directory, which)
    return Restored(int(path.name), _read(path / "model", model), _read(path / "train", train), meta)


def restore_model(directory: str | Path, which: int | str = "latest", weights: str = "") -> tuple[PyTree, dict]:
    """(model as numpy arrays, meta) without a template, chosen as in `restore`; with `weights` those of that name.

    Raises ValueError where there is no step, or no such weights, naming those that there are.
    """
    path, meta = _first_sound(directory, which)
    if not weights:
        return _read(path / "model"), meta
    kept = _read(path / "weights") if (path / "weights").is_dir() else {}
    if weights not in kept:
        raise ValueError(f"no weights {weights!r} in {path}: it holds {', '.join(kept) or 'the last ones only'}")
    return kept[weights], meta


def latest_meta(directory: str | Path) -> dict[str, Any] | None:
    """`meta` of the newest step that still tells it, or None; cheap: reads no arrays and checks none."""
    root = Path(directory)
    return next((found["meta"] for step in steps(root)[::-1] if (found := _record(root / str(step)))), None)


@stopping.deferred()
def _read(path: Path, template: PyTree = None) -> PyTree:
    """A stored tree, laid out as `template`, or as numpy arrays."""
    handler = ocp.StandardCheckpointHandler()
    if template is None:
        template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), handler.metadata(path).tree)
    return handler.restore(path, args=ocp.args.StandardRestore(template))


def _first_sound(directory: str | Path, which: int | str) -> tuple[Path, dict[str, Any]]:
    """Path and meta of the first candidate that is sound on every process."""
    root = Path(directory).absolute()
    damage: str | None = "it holds no step"
    for step in _candidates(root, which):
        path = root / str(step)
        damage = _damage(path)
        if multihost_utils.process_allgather(np.array(damage is None)).all():
            return path, _record(path)["meta"]
        damage = damage or "another process cannot read it"
        if jax.process_index() == 0:
            log.warning(f"checkpoint {step} in {directory} is damaged, passing it over: {damage}")
    raise ValueError(f"no checkpoint to read in {directory}: {damage}; delete the folder to begin that stage anew")


def _candidates(root: Path, which: int | str) -> list[int]:
    newest_first = steps(root)[::-1]
    if which in ("latest", "best"):
        return list(dict.fromkeys([*(_best_first(root) if which == "best" else ()), *newest_first]))
    if str(which) in map(str, newest_first):
        return [int(which)]
    raise ValueError(f"no checkpoint {which!r} in {root}: it holds {newest_first[::-1]}; allowed: latest, best")


def _best_first(root: Path) -> list[int]:
    """The steps that have a score, highest first; of equal scores the later step first."""
    scores = {step: _record(root / str(step)).get("score") for step in steps(root)}
    return sorted((s for s in scores if scores[s] is not None), key=lambda s: (scores[s], s), reverse=True)


def _record(path: Path) -> dict[str, Any]:
    """The content of step.json; empty if it cannot be read, or is not what was written."""
    try:
        found = json.loads((path / "step.json").read_text(encoding="utf-8"))
        forms.check(found, RECORD)
    except (OSError, ValueError, RecursionError):
        return {}
    written = found.pop("digest", None)  # earlier versions have none
    whole = set(found) == {*RECORD} - {"digest?"} and written in (None, _digest(found))
    return found if whole else {}


def _digest(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _damage(path: Path) -> str | None:
    """What is wrong with the files of a step, or None."""
    written, found = _record(path).get("sha256"), _checksums(path)
    if not written:
        return "step.json is missing or unreadable"
    wrong = [name for name in written if found.get(name) != written[name]]
    return f"{spec.visible(wrong[0])} is {'changed' if wrong[0] in found else 'missing'}" if wrong else None


def _checksums(path: Path) -> dict[str, str]:
    sums = {}
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        with file.open("rb") as stream:
            sums[str(file.relative_to(path))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return sums


def _make_room(root: Path, step: int, trees: PyTree) -> None:
    """Remove what a killed save or deletion left, and the steps that this one replaces. Raises OSError where `trees`
    would find no room: orbax's threads would say so in hundreds of lines.
    """
    root.mkdir(parents=True, exist_ok=True)
    for leftover in root.glob("*.part*"):
        shutil.rmtree(leftover)
    _delete(root, (old for old in steps(root) if old >= step))
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=root) as room:
            os.posix_fallocate(room.fileno(), 0, MARGIN + sum(leaf.nbytes for leaf in jax.tree.leaves(trees)))


def _delete(root: Path, old_steps: Iterable[int]) -> None:
    for step in old_steps:
        shutil.rmtree((root / str(step)).rename(root / f"{step}.part"))


def _require_numeric(tree: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        kind = leaf.dtype if isinstance(leaf, jax.Array | np.ndarray) else type(leaf)
        if isinstance(kind, type) or not (jnp.issubdtype(kind, np.number) or jnp.issubdtype(kind, np.bool_)):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"a checkpoint holds numeric arrays only, but {name} is {kind}")
