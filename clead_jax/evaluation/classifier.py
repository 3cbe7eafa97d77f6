"""The compiled programs of an evaluation: what a model says, its gradient, and the steps of attacks on it.

A model is `forward(variables, x [B, H, W, C]) -> logits [B, K]`, or with a key as third argument if it draws noise.
Variables are arguments of every program, so that all checkpoints of one architecture share one compilation.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree

DRAWS = 8  # looks at a model that draws noise before its mean opinion counts


class NamedAttack(NamedTuple):
    """An attack ready to run. `cfg` has `norm`; `eps` too unless the attack looks for the smallest perturbation.

    Whatever an attack finds counts only within `radius`, the threat model's eps.
    """

    name: str
    attack: Iterative
    objective: Objective
    cfg: Any
    radius: float = float("inf")


class Programs:
    """The programs of one model, each compiled once per batch shape.

    `inside` is the forward that attacks climb, where that is another than the one that judges: a cheaper one, say.
    """

    def __init__(
        self, forward: Callable[..., Array], randomized: bool = False, inside: Callable[..., Array] | None = None
    ):
        with_key = lambda f: f if randomized else lambda variables, x, key: f(variables, x)
        self.randomized, self.cheaper = randomized, inside is not None
        self._judge, self._inside = (_in_float32(with_key(f)) for f in (forward, inside or forward))
        self._attacks: dict[tuple, tuple] = {}
        self.logits, self.climbed = jax.jit(self._judge), jax.jit(self._inside)
        self.predict = jax.jit(self._predict)
        self.gradient = jax.jit(self._gradient, static_argnums=0)

    def _predict(self, variables: PyTree, x: Array, key: Key) -> Array:
        """Classes int [B]; -1 where an output is NaN. Of a model that draws noise, by its mean probabilities."""
        look = lambda n: self._judge(variables, x, jax.random.fold_in(key, n))
        outputs = look(0)
        if self.randomized:
            outputs = jax.lax.map(lambda n: jax.nn.softmax(look(n)), jnp.arange(DRAWS)).mean(0)
        return jnp.where(jnp.isnan(outputs).any(-1), -1, outputs.argmax(-1))

    def _gradient(self, objective: Objective, variables: PyTree, x: Array, target: Array, key: Key) -> Array:
        """The gradient [B, H, W, C] of the sum of `objective` over the batch, as attacks see it."""
        return jax.grad(lambda x: objective(self._bound(variables, key)(x), target).sum())(x)

    def init(self, named: NamedAttack, variables: PyTree, x: Array, target: Array, keys: Key, key: Key) -> PyTree:
        """The attack's state before its first step."""
        return self._compiled(named)[0](variables, x, target, keys, named.cfg, key)

    def advance(self, named: NamedAttack, variables: PyTree, state: PyTree, made: int, count: int, key: Key) -> PyTree:
        """The state (donated) `count` steps later, when `made` are made already."""
        _, step, several, _ = self._compiled(named)
        if chunk(named.attack) > 1:
            return several(variables, state, named.cfg, made, count, key)
        for n in range(made, made + count):
            state = step(variables, state, named.cfg, n, key)
        return state

    def result(self, named: NamedAttack, state: PyTree) -> tuple[Array, Array]:
        """(x_adv [B, H, W, C], bool [B]: rows that need no more steps)."""
        return self._compiled(named)[3](state)

    def _bound(self, variables: PyTree, key: Key) -> Forward:
        """The model as attacks call it: every call in a step draws noise of its own."""
        calls = itertools.count()
        return lambda x: self._inside(variables, x, jax.random.fold_in(key, next(calls)))

    def _compiled(self, named: NamedAttack) -> tuple:
        attack, objective = named.attack, named.objective
        if (attack, objective) not in self._attacks:
            begin = lambda v, x, t, keys, cfg, key: attack.init(self._bound(v, key), objective, x, t, keys, cfg)

            def step(v: PyTree, state: PyTree, cfg: Any, made: Array, key: Key) -> PyTree:
                return attack.step(self._bound(v, jax.random.fold_in(key, made)), objective, state, cfg)

            def several(v: PyTree, state: PyTree, cfg: Any, made: Array, count: Array, key: Key) -> PyTree:
                return jax.lax.fori_loop(made, made + count, lambda n, s: step(v, s, cfg, n, key), state)

            self._attacks[attack, objective] = (
                jax.jit(begin),
                jax.jit(step, donate_argnums=1),
                jax.jit(several, donate_argnums=1),
                jax.jit(lambda state: (attack.result(state), attack.done(state))),
            )
        return self._attacks[attack, objective]


def _in_float32(forward: Callable[..., Array]) -> Callable[..., Array]:
    """A forward that may compute in 16 bits, with logits in which losses and margins can be told apart."""
    wide = lambda z: z.astype(jnp.promote_types(z.dtype, jnp.float32))
    return lambda *args: jax.tree.map(lambda z: wide(jnp.asarray(z)), forward(*args))


def chunk(attack: Iterative) -> int:
    """How many steps one dispatch makes. Gradients of convolutions are slow inside compiled loops on the CPU."""
    if attack.forward_only:
        return 100
    return 1 if jax.default_backend() == "cpu" else 10
