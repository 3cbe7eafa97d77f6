"""How far attacks have come, in a form that can be saved at any step and resumed.

The file holds the batch that was under attack, padding and all: the last bits of a float depend on its batch's shape,
and a run that was stopped should end where an uninterrupted one does.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax.core import numerics
from clead_jax.core.types import PyTree
from clead_jax.results import files


class Batch(NamedTuple):
    """A batch in the middle of an attack."""

    rows: np.ndarray  # int [b], which example each row is; -1 for padding, and for one that has left
    made: int  # steps so far
    state: PyTree  # the attack's state, on the devices


@dataclasses.dataclass
class AttackProgress:
    """What is known so far. `identity` says of which model, images and attacks: it must agree to go on."""

    identity: str
    batch_size: int
    correct: np.ndarray  # bool [N], right on the clean image and after every attack so far
    entered: np.ndarray  # bool [N], correct when the current attack began
    records: dict[str, np.ndarray]  # attack -> bool [N], correct after it; finished ones
    forward: dict[str, np.ndarray]  # attack -> int [N], forward passes each example took
    backward: dict[str, np.ndarray]
    images: np.ndarray  # float32 [keep, H, W, C], what became of the first images; x itself where nothing has
    prediction: np.ndarray  # int [keep], what the model takes those for
    distance: np.ndarray  # float32 [keep], how far they are from x
    batch: int = 0  # batches of the current attack that are finished
    seconds: float = 0.0  # spent so far, by all runs
    inside: Batch | None = None
    leaves: list[np.ndarray] | None = None  # of a state just read from a file, until its tree is known

    @property
    def passes(self) -> float:
        """Forward and backward passes so far, per example."""
        return sum(int(a.sum()) for of in (self.forward, self.backward) for a in of.values()) / len(self.correct)


_ARRAYS = ("correct", "entered", "images", "prediction", "distance")
_TABLES = ("records", "forward", "backward")
_NUMBERS = ("batch_size", "batch", "seconds")
_FORM = {
    **{"identity": ("U", 0), "number/batch_size": ("iu", 0), "number/batch": ("iu", 0), "number/seconds": ("iuf", 0)},
    **{"correct": ("b", 1), "entered": ("b", 1), "images": ("f", 4), "prediction": ("i", 1), "distance": ("f", 1)},
}
_INSIDE = {"inside/rows": ("i", 1), "inside/made": ("iu", 0)}


def begin(identity: str, batch_size: int, correct: np.ndarray, images: np.ndarray) -> AttackProgress:
    """Before the first attack; `images` float32 [keep, H, W, C] are those that are to come back attacked."""
    nothing = np.full(len(images), -1, np.int64), np.zeros(len(images), np.float32)
    return AttackProgress(identity, batch_size, correct.copy(), correct.copy(), {}, {}, {}, images.copy(), *nothing)


def save(path: Path, progress: AttackProgress, leaves: list[np.ndarray] | None) -> None:
    """Writes the progress; `leaves` are those of `progress.inside.state`, on the host."""
    arrays = {f"number/{name}": np.asarray(getattr(progress, name)) for name in _NUMBERS}
    arrays |= {"identity": np.asarray(progress.identity)} | {name: getattr(progress, name) for name in _ARRAYS}
    arrays |= {f"{table}/{name}": a for table in _TABLES for name, a in getattr(progress, table).items()}
    if progress.inside and leaves is not None:
        arrays |= {"inside/rows": progress.inside.rows, "inside/made": np.asarray(progress.inside.made)}
        arrays |= {f"leaf/{n}": leaf for n, leaf in enumerate(leaves)}
    files.save_arrays(path, arrays, compress=False)


def load(path: Path, identity: str) -> AttackProgress | None:
    """The progress in a file; None if there is none, or if it is of something else."""
    arrays = files.load_arrays(path)
    if not arrays or str(arrays.get("identity", identity)) != identity:
        return None
    if not _whole(arrays):
        raise ValueError(f"{path} is damaged (no attack has made this progress); {files.AGAIN}")
    table = lambda name: {k.partition("/")[2]: a for k, a in arrays.items() if k.startswith(f"{name}/")}
    fields: dict[str, Any] = {name: arrays[f"number/{name}"].item() for name in _NUMBERS}
    fields |= {name: arrays[name] for name in _ARRAYS} | {name: table(name) for name in _TABLES}
    progress = AttackProgress(identity, **fields)
    if "inside/rows" in arrays:
        progress.inside = Batch(arrays["inside/rows"], int(arrays["inside/made"]), None)
        progress.leaves = [arrays[name] for n in range(len(arrays)) if (name := f"leaf/{n}") in arrays]
    return progress


def _whole(arrays: dict[str, np.ndarray]) -> bool:
    """Whether an attack may have made this progress."""
    form = _FORM | (_INSIDE if any(name.startswith(("inside/", "leaf/")) for name in arrays) else {})
    tables = {name: kind for kind in _TABLES for name in arrays if name.startswith(f"{kind}/")}
    form |= {name: ("b" if kind == "records" else "iu", 1) for name, kind in tables.items()}
    shaped = lambda name, kinds, axes: arrays[name].dtype.kind in kinds and arrays[name].ndim == axes
    if not form.keys() <= arrays.keys() or not all(shaped(name, *own) for name, own in form.items()):
        return False
    attacks = [{n.partition("/")[2] for n, kind in tables.items() if kind == table} for table in _TABLES]
    every, kept = ({len(arrays[n]) for n in names} for names in (("correct", "entered", *tables), _ARRAYS[2:]))
    rows, made = arrays.get("inside/rows", np.zeros(0, int)), arrays.get("inside/made", np.zeros((), int))
    counts = [*(arrays[f"number/{name}"] for name in _NUMBERS), made]
    agree = len(every) == len(kept) == 1 and attacks[0] <= attacks[1] == attacks[2]
    return bool(agree and min(counts) >= 0 < counts[0] and ((rows >= -1) & (rows < min(every))).all())


def to_host(tree: PyTree, fetch: Any) -> list[np.ndarray]:
    """The leaves of a state as plain arrays; keys as their numbers."""
    return [np.asarray(leaf) for leaf in fetch([numerics.plain(leaf) for leaf in jax.tree.leaves(tree)])]


def fits(leaves: list[np.ndarray], like: PyTree) -> bool:
    """Whether leaves have the shapes and types of a state, given as arrays or their shapes."""
    plain = lambda old: jax.eval_shape(jax.random.key_data, old) if numerics.is_key(old) else old
    wanted = [(old.shape, old.dtype) for old in map(plain, jax.tree.leaves(like))]
    return wanted == [(leaf.shape, leaf.dtype) for leaf in leaves]


def to_devices(leaves: list[np.ndarray], like: PyTree, place: Any) -> PyTree:
    """The state of `leaves`, in the form of `like` (arrays or their shapes), on the devices."""
    whole = lambda leaf, old: jax.random.wrap_key_data(leaf, impl=numerics.THREEFRY) if numerics.is_key(old) else leaf
    olds, tree = jax.tree.flatten(like)
    return jax.tree.unflatten(tree, [place(whole(leaf, old)) for leaf, old in zip(leaves, olds, strict=True)])
