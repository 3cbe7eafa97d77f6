"""A `Classifier` compiled: what it predicts, its logits and gradients, and the steps of attacks on it.

    model = compiled(classifier, mesh)
    model.predict(images)                                 # int [N]

Variables are arguments of every program, so that all checkpoints of one architecture share one compilation: as long as
`forward` and its gradient still compute the same, whatever else they read.
"""

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks.objectives import ascent, cross_entropy
from clead_jax.core import numerics, sharding
from clead_jax.core.batches import SMALLEST, padded, pixels
from clead_jax.core.types import Array, Classifier, Forward, Key, NamedAttack, Objective, PyTree

DRAWS = 8  # draws of a randomised model whose mean probability decides


class Programs:
    """The programs of one forward function for a platform ("": jax's own), each compiled once per batch shape."""

    def __init__(self, classifier: Classifier, platform: str = ""):
        self.randomized, self.one_by_one = classifier.randomized, numerics.unrolls(platform)
        with_key = lambda f: f if self.randomized else lambda variables, x, key: f(variables, x)
        forwards = (classifier.forward, classifier.attack_forward or classifier.forward)
        self._judge, self._attacked = (_in_float32(with_key(f)) for f in forwards)
        self._attacks: dict[tuple, tuple] = {}
        self.logits, self.attacked_logits = jax.jit(self._judge), jax.jit(self._attacked)
        self.predict = jax.jit(self._predict)
        self.gradient = jax.jit(self._gradient, static_argnums=0)

    def _predict(self, variables: PyTree, x: Array, key: Key) -> Array:
        """Classes int [B]; -1 where an output is NaN. Of a randomised model, by its mean probabilities."""
        draw = lambda n: self._judge(variables, x, jax.random.fold_in(key, n))
        outputs = draw(0)
        if self.randomized:
            outputs = jax.lax.map(lambda n: jax.nn.softmax(draw(n)), jnp.arange(DRAWS)).mean(0)
        return jnp.where(jnp.isnan(outputs).any(-1), -1, outputs.argmax(-1))

    def _gradient(self, objective: Objective, variables: PyTree, x: Array, target: Array, key: Key) -> Array:
        """The gradient [B, H, W, C] of the sum of `objective` over the batch, as attacks see it."""
        return jax.grad(lambda x: objective(self._bound(variables, key)(x), target).sum())(x)

    def computes(self, variables: PyTree, image_shape: tuple[int, ...]) -> str | object:
        """A digest of what model and gradient compute, all that they read besides their arguments included.

        Equal to nothing else where that cannot be said: Python is called back, or the model cannot be run.
        """

        def everything(variables: PyTree, x: Array, labels: Array, key: Key) -> Any:  # new to jit, which traces it
            gradient = ascent(lambda x: self._attacked(variables, x, key), cross_entropy, x, labels)
            return self._judge(variables, x, key), gradient

        x, labels = np.zeros((SMALLEST, *image_shape), np.float32), np.zeros(SMALLEST, np.int32)
        try:
            text = jax.jit(everything).lower(variables, x, labels, numerics.key(0)).as_text()
        except Exception:  # of whatever kind the model's author has chosen; running it will say so
            return object()
        told = f"{self.randomized} {self.one_by_one} {jax.tree.structure(variables)} {text}"
        unknown = "callback" in text or not _shows_constants()
        return object() if unknown else hashlib.sha256(told.encode()).hexdigest()

    def init(self, named: NamedAttack, variables: PyTree, x: Array, target: Array, keys: Key, key: Key) -> PyTree:
        """The attack's state before its first step."""
        return self._compiled(named)[0](variables, x, target, keys, named.cfg, key)

    def advance(self, named: NamedAttack, variables: PyTree, state: PyTree, made: int, count: int, key: Key) -> PyTree:
        """The state (donated) `count` steps later, when `made` are made already."""
        _, step, several, _ = self._compiled(named)
        if self._rolled(named):
            return several(variables, state, named.cfg, made, count, key)
        for n in range(made, made + count):
            state = step(variables, state, named.cfg, n, key)
        return state

    def traced(self, named: NamedAttack, variables: PyTree, state: PyTree, key: Key) -> jax.stages.Traced:
        """The program that `advance` runs, for arguments of which shape, type and place alone are given."""
        _, step, several, _ = self._compiled(named)
        if self._rolled(named):
            return several.trace(variables, state, named.cfg, 0, 1, key)
        return step.trace(variables, state, named.cfg, 0, key)

    def _rolled(self, named: NamedAttack) -> bool:
        return named.attack.forward_only or not self.one_by_one

    def result(self, named: NamedAttack, state: PyTree) -> tuple[Array, Array]:
        """(x_adv [B, H, W, C], bool [B]: rows that need no more steps)."""
        return self._compiled(named)[3](state)

    def _bound(self, variables: PyTree, key: Key) -> Forward:
        """The model as attacks call it: every call in a step draws noise of its own."""
        calls = itertools.count()
        return lambda x: self._attacked(variables, x, jax.random.fold_in(key, next(calls)))

    def _compiled(self, named: NamedAttack) -> tuple:
        attack, objective = named.attack, named.objective
        if (attack, objective) not in self._attacks:
            begin = lambda v, x, t, keys, cfg, key: attack.init(self._bound(v, key), objective, x, t, keys, cfg)
            noise = lambda v, key, n: self._bound(v, jax.random.fold_in(key, n))
            step = lambda v, state, cfg, n, key: attack.step(noise(v, key, n), objective, state, cfg)
            several = lambda v, state, cfg, made, count, key: jax.lax.fori_loop(
                made, made + count, lambda n, s: step(v, s, cfg, n, key), state
            )
            end = lambda state: (attack.result(state), attack.done(state))
            programs = jax.jit(begin), *(jax.jit(f, donate_argnums=1) for f in (step, several)), jax.jit(end)
            self._attacks[attack, objective] = programs
        return self._attacks[attack, objective]


def _shows_constants() -> bool:
    """Whether the text of a program holds the arrays it closes over: not so with jax_use_simplified_jaxpr_constants."""
    texts = {jax.jit(lambda x, c=c: x + c).lower(c).as_text() for c in (np.arange(99.0), np.arange(1, 100.0))}
    return len(texts) == 2


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A classifier to be evaluated, its weights on all devices, in batches padded by repeating their first row."""

    classifier: Classifier
    programs: Programs
    variables: PyTree  # on the devices
    mesh: jax.sharding.Mesh
    batch_size: int

    @property
    def randomized(self) -> bool:
        """Whether the model draws noise."""
        return self.programs.randomized

    def place(self, batch: Any) -> Array:
        """One batch [B, ...], spread over the devices."""
        return sharding.put(batch, sharding.split(self.mesh))

    fetch = staticmethod(sharding.to_host)

    def in_batches_of(self, batch_size: int) -> "Compiled":
        """The same with other batches."""
        return dataclasses.replace(self, batch_size=batch_size)

    def with_variables(self, variables: PyTree) -> "Compiled":
        """The same programs with other weights."""
        return dataclasses.replace(self, variables=sharding.put(variables, sharding.replicated(self.mesh)))

    def predict(self, images: np.ndarray, key: Key | None = None) -> np.ndarray:
        """Predicted classes int [N] of images [N, H, W, C] (uint8, or floats in [0, 1]); -1 where an output is NaN."""
        return self.each(lambda x: self.programs.predict(self.variables, x, _key(key)), pixels(images))

    def logits(self, images: np.ndarray, key: Key | None = None) -> np.ndarray:
        """Logits [N, K] of images [N, H, W, C]."""
        return self.each(lambda x: self.programs.logits(self.variables, x, _key(key)), pixels(images))

    def attacked_logits(self, images: np.ndarray, key: Key | None = None) -> np.ndarray:
        """As `logits`, of what attacks differentiate."""
        program = self.programs.attacked_logits if self.classifier.attack_forward else self.programs.logits
        return self.each(lambda x: program(self.variables, x, _key(key)), pixels(images))

    def gradient(self, objective: Objective, images: np.ndarray, labels: np.ndarray, key: Key) -> np.ndarray:
        """Gradients [N, H, W, C] of the objective, as attacks see them."""
        program = lambda x, y: self.programs.gradient(objective, self.variables, x, y, key)
        return self.each(program, pixels(images), labels.astype(np.int32))

    def each(self, program: Callable[..., Any], *arrays: np.ndarray) -> np.ndarray:
        """program(*batches) for all rows of some arrays [N, ...], put together again."""
        one = lambda rows: self.fetch(program(*(self.place(a[rows]) for a in arrays)))
        return np.concatenate([one(rows)[:size] for rows, size in padded(len(arrays[0]), self.batch_size)])


def compiled(classifier: Classifier, mesh: jax.sharding.Mesh | None = None, batch_size: int = 256) -> Compiled:
    """A classifier over all devices. Where `image_shape` is known, forwards that compute the same share programs."""
    mesh = sharding.data_mesh() if mesh is None else mesh
    classifier = of_arrays(classifier)
    placed = sharding.put(classifier.variables, sharding.replicated(mesh))
    programs = Programs(dataclasses.replace(classifier, variables=None), sharding.platform_of(mesh))
    if classifier.image_shape and jax.tree.leaves(placed):
        programs = _first(_Known(programs.computes(placed, classifier.image_shape), programs)).programs
    return Compiled(classifier, programs, placed, mesh, batch_size)


@dataclasses.dataclass(frozen=True)
class _Known:
    computes: str | object
    programs: Programs = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=8)
def _first(known: _Known) -> _Known:
    """The first of equal ones."""
    return known


def arrays(variables: PyTree) -> PyTree:
    """The variables as they are, or, where they hold functions, text or Python's numbers too, a list of the arrays."""
    leaves = jax.tree.leaves(variables)
    return variables if all(map(_is_array, leaves)) else [leaf for leaf in leaves if _is_array(leaf)]


def of_arrays(classifier: Classifier) -> Classifier:
    """The classifier with `arrays` for its variables. Whatever else they held is part of its forward."""
    if (held := arrays(classifier.variables)) is classifier.variables:
        return classifier
    leaves, tree = jax.tree.flatten(classifier.variables)
    rest = [None if _is_array(leaf) else (leaf,) for leaf in leaves]

    def closed(forward: Callable[..., Array]) -> Callable[..., Array]:
        def with_arrays(held: list[Array], x: Array, *key: Key) -> Array:
            given = iter(held)
            return forward(jax.tree.unflatten(tree, [of[0] if of else next(given) for of in rest]), x, *key)

        return with_arrays

    attacked = classifier.attack_forward and closed(classifier.attack_forward)
    return dataclasses.replace(classifier, forward=closed(classifier.forward), attack_forward=attacked, variables=held)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) or (isinstance(leaf, np.ndarray | np.generic) and leaf.dtype.kind not in "OSUMm")


def in_bfloat16(forward: Callable[..., Array]) -> Callable[..., Array]:
    """A forward that computes with variables and images cast to bfloat16."""
    half = lambda leaf: leaf.astype(jnp.bfloat16) if jnp.issubdtype(jnp.asarray(leaf).dtype, jnp.floating) else leaf
    return lambda variables, x, *key: forward(jax.tree.map(half, variables), half(x), *key)


def _in_float32(forward: Callable[..., Array]) -> Callable[..., Array]:
    """A forward that may compute in 16 bits, with logits in which losses and margins can be told apart."""
    wide = lambda z: z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return lambda *args: jax.tree.map(lambda z: wide(jnp.asarray(z)), forward(*args))


def _key(key: Key | None) -> Key:
    return numerics.key(0) if key is None else key
