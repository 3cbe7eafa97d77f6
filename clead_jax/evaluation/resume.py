"""How far a cascade has come, in a form that can be saved at any step of any attack and gone on from.

The file holds the batch that was under attack, padding and all: the last bits of a float depend on the shape of the
batch it was computed in, and a run that was stopped should end where an uninterrupted one does.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax.core.types import PyTree
from clead_jax.results import files as store


class Batch(NamedTuple):
    """A batch in the middle of an attack."""

    rows: np.ndarray  # int [b], which example each row is; -1 where it is none, or one that has fallen
    made: int  # steps so far
    state: PyTree  # the attack's state, on the devices


@dataclasses.dataclass
class Ledger:
    """What is known so far. `identity` says of which model, images and attacks: it must agree to go on."""

    identity: str
    batch_size: int
    standing: np.ndarray  # bool [N]
    entered: np.ndarray  # bool [N], standing when the current attack began
    records: dict[str, np.ndarray]  # attack -> bool [N], standing after it; finished ones
    forward: dict[str, np.ndarray]  # attack -> int [N], forward passes each example took
    backward: dict[str, np.ndarray]
    adversarial: np.ndarray | None  # float32 [N, H, W, C], where asked for: x itself while an example stands
    batch: int = 0  # batches of the current attack that are finished
    seconds: float = 0.0  # spent so far, by all runs
    inside: Batch | None = None
    leaves: list[np.ndarray] | None = None  # of a state just read from a file, until somebody knows its tree

    def finish(self, attack: str) -> None:
        """Closes an attack."""
        self.records[attack] = self.standing.copy()
        self.entered, self.batch, self.inside = self.standing.copy(), 0, None

    @property
    def passes(self) -> float:
        """Forward and backward passes so far, per example."""
        taken = sum(int(a.sum()) for of in (self.forward, self.backward) for a in of.values())
        return taken / len(self.standing)


_ARRAYS = ("standing", "entered", "adversarial")
_TABLES = ("records", "forward", "backward")
_NUMBERS = ("batch_size", "batch", "seconds")


def begin(identity: str, batch_size: int, correct: np.ndarray, images: np.ndarray | None) -> Ledger:
    """Before the first attack: clean images that are right stand. `images` float32: adversarial ones are wanted."""
    kept = None if images is None else images.copy()
    return Ledger(identity, batch_size, correct.copy(), correct.copy(), {}, {}, {}, kept)


def save(path: Path, ledger: Ledger, leaves: list[np.ndarray] | None) -> None:
    """Writes a ledger; `leaves` are those of `ledger.inside.state`, on the host."""
    arrays = {f"number/{name}": np.asarray(getattr(ledger, name)) for name in _NUMBERS}
    arrays["identity"] = np.asarray(ledger.identity)
    arrays |= {name: a for name in _ARRAYS if (a := getattr(ledger, name)) is not None}
    arrays |= {f"{table}/{name}": a for table in _TABLES for name, a in getattr(ledger, table).items()}
    if ledger.inside and leaves is not None:
        arrays |= {"inside/rows": ledger.inside.rows, "inside/made": np.asarray(ledger.inside.made)}
        arrays |= {f"leaf/{n}": leaf for n, leaf in enumerate(leaves)}
    store.save_arrays(path, arrays, compress=False)


def load(path: Path, identity: str, wants_images: bool) -> Ledger | None:
    """The ledger in a file; None if there is none, if it is of something else, or lacks the images now wanted."""
    arrays = store.load_arrays(path)
    if not arrays or str(arrays["identity"]) != identity or (wants_images and "adversarial" not in arrays):
        return None
    table = lambda name: {k.partition("/")[2]: a for k, a in arrays.items() if k.startswith(f"{name}/")}
    fields: dict[str, Any] = {name: arrays[f"number/{name}"].item() for name in _NUMBERS}
    fields |= {name: arrays.get(name) for name in _ARRAYS} | {name: table(name) for name in _TABLES}
    ledger = Ledger(identity, **fields)
    if "inside/rows" in arrays:
        ledger.inside = Batch(arrays["inside/rows"], int(arrays["inside/made"]), None)
        ledger.leaves = [arrays[f"leaf/{n}"] for n in range(sum(k.startswith("leaf/") for k in arrays))]
    return ledger


def to_host(tree: PyTree, fetch: Any) -> list[np.ndarray]:
    """The leaves of a state as plain arrays; keys as their numbers."""
    plain = lambda leaf: jax.random.key_data(leaf) if _is_key(leaf) else leaf
    return [np.asarray(leaf) for leaf in fetch([plain(leaf) for leaf in jax.tree.leaves(tree)])]


def to_devices(leaves: list[np.ndarray], like: PyTree, place: Any) -> PyTree:
    """The state of `leaves`, in the form of `like` (arrays or their shapes), on the devices."""
    whole = lambda leaf, old: jax.random.wrap_key_data(leaf) if _is_key(old) else leaf
    olds, tree = jax.tree.flatten(like)
    placed = [place(whole(leaf, old)) for leaf, old in zip(leaves, olds, strict=True)]
    return jax.tree.unflatten(tree, placed)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
