"""Adversarial weight perturbation: the gradient of a step is taken at other weights, and moves the old ones.

It fits any loss. A perturbation is a function of the weights and of how the loss changes there, made in each step anew,
so that there is nothing to be restored and no state.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from clead_jax.core import spec
from clead_jax.core.types import Array, PyTree

Perturb = Callable[[Callable[[PyTree], PyTree], PyTree, Array], PyTree]
"""(params -> gradient of the loss, params, step) -> the weights at which the gradient of the step is taken."""

_TINY = 1e-20  # as in the authors' code


@dataclass(frozen=True)
class AWP:
    """AWP (Wu et al. 2020, arXiv 2004.05884, Eq. 8-10): w + gamma * |w| g / |g|, layer by layer.

    g is the gradient of the training loss; arrays of one dimension (biases, BatchNorm) stay. The authors take g from
    one step of SGD on a copy, whose learning rate cancels. `start`: epochs without perturbation before the first with.
    """

    gamma: float = 0.01  # theirs with PGD-AT; 0.005 with TRADES
    start: float = 0.0

    def __post_init__(self) -> None:
        spec.check_ranges(self, gamma="[0, inf)", start="[0, inf)")

    def perturbed(self, params: PyTree, gradient: PyTree) -> PyTree:
        """The weights at which the loss is about the largest within a relative distance of `gamma` of every layer."""

        def of_layer(w: Array, g: Array) -> Array:
            return w + self.gamma * optax.global_norm(w) / (optax.global_norm(g) + _TINY) * g if w.ndim > 1 else w

        return jax.tree.map(of_layer, params, gradient)


PERTURBATIONS = {"awp": AWP}


def perturbation(text: str, steps_per_epoch: int) -> Perturb | None:
    """'awp(gamma=0.01)' -> what perturbs the weights; '' -> None. ValueError for another name or setting."""
    if not text:
        return None
    name, _ = spec.parse(text)
    if name not in PERTURBATIONS:
        raise ValueError(f"unknown perturbation {name!r}; known: {', '.join(PERTURBATIONS)}")
    rule = spec.settings(text, "perturbation", PERTURBATIONS[name], {})

    def perturb(gradient: Callable[[PyTree], PyTree], params: PyTree, step: Array) -> PyTree:
        begun = step >= rule.start * steps_per_epoch
        return jax.tree.map(
            lambda new, old: jnp.where(begun, new, old), rule.perturbed(params, gradient(params)), params
        )

    return perturb
