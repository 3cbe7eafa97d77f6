"""Our side of `against_torch`: nets with random weights, random images, and attacks as an evaluation drives them."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks import parse as arsenal
from clead_jax.core import sharding
from clead_jax.core.types import Array, PyTree
from clead_jax.evaluation.verify import Evaluator, NamedAttack
from clead_jax.experiment import builders as build
from clead_jax.experiment import throughput
from clead_jax.models import flops

EPS = 1e-6  # so small that nothing is fooled
CLASSES = 10
CHANNELS, STRIDES = (3, 32, 64, 128, 128), (1, 2, 2, 1)  # of the net `small`
WIDTHS = {"tiny": 16, "resnet18": 64}


class Problem(NamedTuple):
    """A net and what to attack it with."""

    evaluator: Evaluator
    forward: Callable[[PyTree, Array], Array]
    variables: PyTree
    weights: dict[str, Any]  # the same as plain arrays, and what else the other side needs to make the net
    images: np.ndarray  # float32 [B, H, W, C] in [0, 1]
    labels: np.ndarray  # int32 [B]: what the net says


def problem(name: str, batch_size: int) -> Problem:
    """A net by its name in `against_torch.NETS`, random images, and the labels that the net gives them."""
    random = np.random.default_rng(0)
    images = random.random((batch_size, *((8, 8, 1) if name == "digits" else (32, 32, 3))), np.float32)
    forward, variables, weights = _small(random) if name == "small" else _resnet(name, images[:1], random)
    evaluator = Evaluator(forward, batch_size)
    labels = evaluator.predict(variables, images).astype(np.int32)
    return Problem(evaluator, forward, variables, weights, images, labels)


def _small(random: np.random.Generator) -> tuple[Callable, PyTree, dict[str, Any]]:
    layer = lambda *shape: {
        "kernel": random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32),
        "bias": random.normal(0, 0.1, shape[-1]).astype(np.float32),
    }
    layers = [layer(3, 3, *channels) for channels in itertools.pairwise(CHANNELS)]
    layers.append(layer(CHANNELS[-1], CLASSES))

    def forward(layers: PyTree, x: Array) -> Array:
        x = (x - 0.5) / 0.25
        for layer, stride in zip(layers, STRIDES, strict=False):
            x = jax.lax.conv_general_dilated(
                x, layer["kernel"], (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(x + layer["bias"])
        return x.mean((1, 2)) @ layers[-1]["kernel"] + layers[-1]["bias"]

    return forward, jax.device_put(layers), {"mean": 0.5, "std": 0.25, "layers": layers, "strides": STRIDES}


def _resnet(name: str, image: np.ndarray, random: np.random.Generator) -> tuple[Callable, PyTree, dict[str, Any]]:
    """One of ours. What `init` makes 0 or 1 is moved a little, so that no two of BatchNorm's numbers can be swapped."""
    backbone = "resnet18" if name == "resnet18" else "tiny"
    network = build.network({"backbone": backbone, "num_classes": CLASSES, "width": WIDTHS[backbone]})
    variables = jax.device_get(network.init(jax.random.key(0), image, False))
    moved = lambda leaf: leaf * random.uniform(0.8, 1.2, leaf.shape) + random.uniform(0, 0.1, leaf.shape)
    variables = jax.tree.map(lambda v: moved(v).astype(np.float32) if v.ndim == 1 else v, variables)
    weights = {"mean": network.mean[0], "std": network.std[0], **variables}
    return build.forward(network), jax.device_put(variables), weights


def logits(of: Problem) -> np.ndarray:
    """What the net says, [B, K]."""
    return np.asarray(jax.jit(of.forward)(of.variables, of.images))


def named(text: str) -> NamedAttack:
    """'square(queries=500)' -> an attack on so small a ball that it fools nobody."""
    return arsenal.named_attack(text, {"norm": "linf", "eps": EPS}, {"step_size": EPS / 4})


def attack(of: Problem, text: str) -> tuple[float, int]:
    """(seconds that the attack took, how many images it has not fooled)."""
    begin = time.perf_counter()
    outcome = of.evaluator.attack(of.variables, of.images, of.labels, named(text), key=jax.random.key(0))
    return time.perf_counter() - begin, int(outcome.correct.sum())


def settings(text: str) -> dict[str, Any]:
    """The settings of an attack, for the other side."""
    return dataclasses.asdict(named(text).cfg)


def passes(text: str) -> dict[str, list[int]]:
    """[forward passes alone, forward and backward passes] that an image costs on either side."""
    given = named(text)
    steps = given.attack.num_steps(given.cfg)
    if given.attack.forward_only:
        return {"ours": [steps + 2, 0], "theirs": [steps + 3, 0]}
    return {"ours": [2, steps], "theirs": [1, steps] if text.startswith("apgd") else [0, steps - 1]}


def work(of: Problem) -> tuple[int, int]:
    """FLOPs of an image's forward pass, and of one with its gradient."""
    one = jax.ShapeDtypeStruct((1, *of.images.shape[1:]), np.float32)
    gradient = jax.grad(lambda x, variables: jnp.sum(of.forward(variables, x)))
    return flops.count(of.forward, of.variables, one), flops.count(gradient, one, of.variables)


def environment() -> dict[str, Any]:
    """What this side runs on, and how fast it multiplies matrices (FLOP/s)."""
    rate = throughput.matmul_rate(sharding.data_mesh(), "float32", 2.0)
    return {"jax": jax.__version__, "matmul_flops_per_s": rate}
