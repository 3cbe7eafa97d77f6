"""The types that every package of clead_jax shares.

Shapes are in brackets: B examples, V views, H x W pixels, C channels, D embedding dimensions, K classes.
Images are floats in [0, 1] everywhere outside the model; uint8 only on disk and in the resident data set.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax.core import numerics
from clead_jax.core.rows import Rows, blocks

Array = jax.Array
Key = jax.Array
PyTree = Any

Forward = Callable[[Array], Array]
"""images [B, H, W, C] in [0, 1] -> outputs [B, ...], logits or embeddings; closes over variables and BatchNorm mode."""

Objective = Callable[[Array, PyTree], Array]
"""(outputs [B, ...], target) -> [B]; larger is worse for the model. `target`: labels int [B] or a `Targeted`."""

Loss = Callable[..., Array]
"""(z [B, V, D], labels [B], cfg, where=None) -> [B, V] losses; 0 where there is no anchor or no positive."""

Metrics = dict[str, tuple[Array, Array]]
"""name -> (sum, count): added up over batches and divided once, so that padded tails never bias a mean."""


class Targeted(NamedTuple):
    """Target of a targeted attack: move an example of class `label` to class `goal`. Both int [B], data."""

    label: Array
    goal: Array


class CleanLogits(NamedTuple):
    """Target of an attack that moves the outputs away from the clean ones, `logits` [B, K]. `label` int [B] decides
    what an error is.
    """

    label: Array
    logits: Array


class Iterative(NamedTuple):
    """An attack as pure functions over a state, which a caller drives step by step.

    Every leaf of the state is [B, ...], counters and keys included: between two steps a caller may gather rows, spread
    them over devices, or save them. Leaves may share an array: call `init` under jit if `step` is to donate its state.
    """

    init: Callable[..., PyTree]  # (forward, objective, x, target, keys, cfg) -> state
    step: Callable[..., PyTree]  # (forward, objective, state, cfg) -> state
    result: Callable[[PyTree], Array]  # state -> x_adv
    done: Callable[[PyTree], Array]  # state -> bool [B]: more steps cannot help; a hint, for dropping rows
    num_steps: Callable[[Any], int]  # cfg -> how many steps make the attack
    forward_only: bool = False  # no gradients inside: many steps may be one rolled loop, on the CPU too
    passes: Callable[[Any, int], tuple[int, int]] = lambda cfg, classes: (1, 1)  # forward and backward, in one step
    init_passes: Callable[[Any, int], tuple[int, int]] = lambda cfg, classes: (0, 0)  # before the first step


Step = Callable[[PyTree, PyTree, PyTree, Key], tuple[PyTree, Metrics]]
"""(state, frozen, batch, key) -> (state, metrics). `frozen` is what a step reads but does not train: an argument, for
closed over it would become constants of the program. `batch` holds images, labels and their places in the data set."""


class NamedAttack(NamedTuple):
    """An attack ready to run. `cfg` has `norm`, and `eps` unless the attack minimises the perturbation."""

    name: str
    attack: Iterative
    objective: Objective
    cfg: Any
    radius: float = float("inf")  # the eps of the threat model: only what is found within it counts

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides the result, as plain values for results.json."""
        return {"objective": self.objective.__name__, **dataclasses.asdict(self.cfg)}

    def passes(self, num_classes: int) -> tuple[int, int]:
        """(forward, backward) passes per example of the whole attack, on a model with so many classes."""
        steps = self.attack.num_steps(self.cfg)
        first, each = self.attack.init_passes(self.cfg, num_classes), self.attack.passes(self.cfg, num_classes)
        return first[0] + steps * each[0], first[1] + steps * each[1]


class ThreatModel(NamedTuple):
    """All images within `eps` (in units of the [0, 1] pixel range) of the clean one, in `norm`: linf, l2 or l1."""

    norm: str
    eps: float


def fingerprint(*parts: np.ndarray | Rows | str) -> str:
    """16 hexadecimal digits that change with any bit, shape or type of the arrays and any character of the texts."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray | Rows):
            digest.update(f"{part.dtype} {part.shape} ".encode())
            for block in blocks(part) if part.ndim else [part]:
                digest.update(np.ascontiguousarray(block).data)
        else:
            digest.update(f"{part!a} ".encode())
    return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Examples:
    """Some examples of one split. `index` is their position in it: it keys their randomness, whoever else is chosen."""

    images: np.ndarray  # uint8 [N, H, W, C], or floats in [0, 1]; of training images on disk `Rows`
    labels: np.ndarray  # int32 [N]
    index: np.ndarray  # int32 [N]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model: `forward(variables, x)` maps pixels x [B, H, W, C] in [0, 1] to logits [B, K].

    A `randomized` model draws noise: its forward takes a key as third argument. `attack_forward` has the same arguments
    and is what attacks differentiate where that is not `forward` itself: a smooth stand-in (BPDA, arXiv 1802.00420,
    section 4.1), or the same network in bfloat16. Success is judged by `forward` alone. Unpacking gives the first two.
    """

    forward: Callable[..., Array]
    variables: PyTree = None
    num_classes: int = 0  # 0: not known yet
    image_shape: tuple[int, ...] = ()  # (H, W, C); () if any will do
    randomized: bool = False
    attack_forward: Callable[..., Array] | None = None
    name: str = "model"
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # where it comes from: stage, step, ...

    def __iter__(self) -> Iterator[Any]:
        return iter((self.forward, self.variables))

    def __call__(self, x: Array, *key: Key) -> Array:
        """Logits [B, K] of x [B, H, W, C]."""
        return self.forward(self.variables, x, *key)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any bit of the weights."""
        digest = hashlib.sha256()
        for leaf in jax.tree.leaves(self.variables):
            digest.update(np.asarray(numerics.plain(leaf)).tobytes())
        return digest.hexdigest()[:16]
