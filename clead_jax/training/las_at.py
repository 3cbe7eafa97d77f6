"""LAS-AT (Jia et al. 2022, arXiv 2203.06616): a network learns which attack an image is trained on.

The strategy network sees the clean image and draws a radius, a step size and a number of steps for it, by chance also
in the last epoch. Its loss (Sec. 3.3, Eq. 9 as in the authors' code) is that of the policy gradient,

    R * sum over settings of the mean over images of -log probability of what was drawn,

with one reward for the batch, taken of a copy of the model that is one step of SGD ahead:

    R = min(cross entropy on the attacked images, clamp)
        + robust * accuracy of the copy under `attack`  +  clean * accuracy of the copy

The cross entropy and the gradient that the copy follows are those of the model's own step.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clead_jax.core import spec
from clead_jax.core.registry import STRATEGIES
from clead_jax.core.types import Array, Key, Metrics, PyTree
from clead_jax.training.state import Extra, TrainState, variables
from clead_jax.training.step import Seen
from clead_jax.training.strategies import Strategy, Surroundings

_DRAWS = 1 << 16  # apart from the numbers that views fold into the same keys
_SCORE = 1 << 17


@dataclass(frozen=True)
class LasAT:
    """Settings of LAS-AT; the defaults are those of the authors' code for LAS-PGD-AT on CIFAR-10.

    Radius and step size lie on a grid, "lowest:highest:how many". ValueError for grids that cannot be.
    """

    eps: tuple[float, ...] = (3 / 255, 15 / 255, 13)
    step_size: tuple[float, ...] = (1 / 255, 5 / 255, 5)
    steps: tuple[float, ...] = (3, 14)  # lowest, highest
    every: int = 20  # steps of the model between two of the strategy network
    lr: float = 1e-4  # of its SGD, which has no momentum and the schedule of the stage
    clip: float = 1.0  # the longest gradient
    clamp: float = 10.0
    robust: float = 4.0
    clean: float = 2.0
    attack: str = "pgd(steps=10,restarts=2,keep=best)"
    backbone: str = ""  # empty: the model's

    def __post_init__(self) -> None:
        spec.check_ranges(self, every="[1, inf)", lr="[0, inf)", clip="(0, inf)", clamp="[0, inf)")
        for name, length in (("eps", 3), ("step_size", 3), ("steps", 2)):
            given = getattr(self, name)
            if len(given) != length or not 0 < given[0] <= given[1] or given[-1] < 1 or given[-1] != int(given[-1]):
                form = "lowest:highest:how many" if length == 3 else "lowest:highest"
                raise ValueError(f"{name} must be {form}, got {':'.join(f'{value:.4g}' for value in given)}")

    @property
    def most_steps(self) -> int:
        """The highest number of steps that it may choose."""
        return int(self.steps[1])


class Policy(NamedTuple):
    """The strategy network and what it chooses from: setting of the attack -> the values that it can have."""

    network: Any
    actions: dict[str, np.ndarray]

    def log_probabilities(self, params: PyTree, x: Array) -> dict[str, Array]:
        """Setting -> [B, values]. With batch statistics always: there is no use of the network after training."""
        net = self.network
        logits, _ = net.apply({"params": params}, x, True, method=net.logits, mutable=["batch_stats"])
        ends = np.cumsum([len(values) for values in self.actions.values()])[:-1]
        return dict(zip(self.actions, map(jax.nn.log_softmax, jnp.split(logits, ends, axis=-1)), strict=True))

    def draw(self, params: PyTree, x: Array, keys: Key) -> dict[str, Array]:
        """Setting -> which of its values an image gets, int [B]."""
        one = jax.vmap(lambda key, logits, number: jax.random.categorical(jax.random.fold_in(key, number), logits))
        found = self.log_probabilities(params, x).items()
        return {name: one(keys, logits, jnp.full(len(x), _DRAWS + i)) for i, (name, logits) in enumerate(found)}


def policy(cfg: LasAT, network: Any) -> Policy:
    """The strategy network of a model's network."""
    grid = lambda given: np.linspace(given[0], given[1], int(given[2]), dtype=np.float32)
    numbers = np.arange(int(cfg.steps[0]), cfg.most_steps + 1)
    actions: dict[str, np.ndarray] = {"eps": grid(cfg.eps), "step_size": grid(cfg.step_size), "tau": numbers}
    outputs = sum(map(len, actions.values()))
    return Policy(network.clone(num_classes=outputs, backbone=cfg.backbone or network.backbone), actions)


@STRATEGIES.register("las_at", LasAT)
def las_at(cfg: LasAT, stage: Surroundings) -> Strategy:
    """The strategy in its stage."""
    chooser, attack = policy(cfg, stage.network), stage.attack(cfg.attack)
    rate, target_rate = stage.rate(cfg.lr), stage.rate(stage.lr)

    def init(params: PyTree, batch_stats: PyTree) -> PyTree:
        image = jnp.zeros((1, *stage.image_shape))
        return {"strategy": chooser.network.init(stage.key, image, True, method=chooser.network.logits)["params"]}

    def choose(state: TrainState, x: Array, keys: Key) -> dict[str, Any]:
        drawn = chooser.draw(state.extra["strategy"], x, keys)
        return {"counts": "steps"} | {name: jnp.asarray(chooser.actions[name])[i] for name, i in drawn.items()}

    def reward(before: TrainState, new: TrainState, seen: Seen, x: Array) -> Array:
        lr, labels = target_rate(before.step), seen.batch.labels
        ahead = jax.tree.map(lambda w, g: w - lr * (g + stage.weight_decay * w), before.params, seen.grads)
        copy = variables(ahead, new.batch_stats, seen.frozen.variables)
        forward = lambda images: stage.network.apply(copy, images, False, method=stage.network.logits)
        accuracy = lambda images: jnp.mean(forward(images).argmax(-1) == labels)
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(seen.logits[:, -1], labels).mean()
        attacked = attack(forward, x, labels, jax.vmap(lambda key: jax.random.fold_in(key, _SCORE))(seen.keys))
        return jnp.minimum(loss, cfg.clamp) + cfg.robust * accuracy(attacked) + cfg.clean * accuracy(x)

    def after(before: TrainState, new: TrainState, seen: Seen) -> tuple[TrainState, Metrics]:
        params, x = before.extra["strategy"], stage.augment(seen.keys, seen.batch.images)
        drawn = chooser.draw(params, x, seen.keys)

        def learned(params: PyTree) -> PyTree:
            score = reward(before, new, seen, x)
            gradient = jax.grad(lambda params: score * surprise(chooser, params, x, drawn))(params)
            shorter = rate(before.step) * jnp.minimum(1.0, cfg.clip / jnp.maximum(optax.global_norm(gradient), 1e-12))
            return jax.tree.map(lambda w, g: w - shorter * g, params, gradient)

        params = jax.lax.cond(before.step % cfg.every == 0, learned, lambda params: params, params)
        values = {f"chosen_{name}": jnp.asarray(chooser.actions[name])[i] for name, i in drawn.items()}
        metrics = {name: (value.sum().astype(jnp.float32), jnp.float32(len(x))) for name, value in values.items()}
        return new.replace(extra=new.extra | {"strategy": params}), metrics

    once = max(stage.attack_passes(cfg.attack)) + 2  # the copy on clean images, the strategy network's gradient
    return Strategy(choose, Extra(init=init), after, passes=1 + -(-once // cfg.every))


def surprise(chooser: Policy, params: PyTree, x: Array, drawn: dict[str, Array]) -> Array:
    """Sum over settings of the mean over images of -log probability of what was drawn; `drawn` int [B] each."""
    found = chooser.log_probabilities(params, x)
    return -sum(jnp.take_along_axis(found[name], drawn[name][:, None], axis=1).mean() for name in drawn)  # type: ignore
