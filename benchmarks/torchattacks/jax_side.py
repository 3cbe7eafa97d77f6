"""Our side of the comparison: nets with random weights, random images, and attacks driven as in an evaluation."""

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks.autoattack import autoattack, autoattack_version
from clead_jax.attacks.parse import attack_at
from clead_jax.core import sharding, spec
from clead_jax.core.types import Array, Classifier, Examples, NamedAttack, PyTree
from clead_jax.evaluation.classifier import Compiled, compiled
from clead_jax.evaluation.runner import run_attacks
from clead_jax.experiment import throughput
from clead_jax.models import Network, flops

CLASSES = 10
CHANNELS, STRIDES = (3, 32, 64, 128, 128), (1, 2, 2, 1)  # of the net `small`
WIDTHS = {"tiny": 16, "resnet18": 64}


class Problem(NamedTuple):
    """A net and what to attack it with."""

    model: Compiled
    weights: dict[str, Any]  # of the model as plain arrays, and what else the other side needs
    images: np.ndarray  # float32 [B, H, W, C] in [0, 1]
    labels: np.ndarray  # int32 [B], the net's own predictions


def problem(name: str, batch_size: int) -> Problem:
    """A net by its name in `run.NETS`, random images, and the net's predictions as labels."""
    random = np.random.default_rng(0)
    images = random.random((batch_size, *((8, 8, 1) if name == "digits" else (32, 32, 3))), np.float32)
    forward, variables, weights = _small(random) if name == "small" else _resnet(name, images[:1], random)
    mesh = sharding.data_mesh(jax.devices()[:1])
    model = compiled(Classifier(forward, variables, CLASSES), mesh, batch_size)
    return Problem(model, weights, images, model.predict(images).astype(np.int32))


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
    """One of ours. The constants of `init` are perturbed, so that swapped BatchNorm parameters are noticed."""
    backbone = "resnet18" if name == "resnet18" else "tiny"
    network = Network(backbone, CLASSES, WIDTHS[backbone])
    variables = jax.device_get(network.init(jax.random.key(0), image, False))
    moved = lambda leaf: leaf * random.uniform(0.8, 1.2, leaf.shape) + random.uniform(0, 0.1, leaf.shape)
    variables = jax.tree.map(lambda v: moved(v).astype(np.float32) if v.ndim == 1 else v, variables)
    weights = {"mean": network.mean[0], "std": network.std[0], **variables}
    return lambda v, x: network.apply(v, x, False, method="logits"), jax.device_put(variables), weights


def logits(of: Problem) -> np.ndarray:
    """The net's logits [B, K]."""
    return of.model.logits(of.images)


def named(text: str, eps: float) -> NamedAttack:
    """'square(queries=500)' -> an attack in the Linf ball of radius eps."""
    return attack_at(text, "linf", eps)


def attack(of: Problem, text: str, eps: float) -> tuple[float, int]:
    """(seconds that the attack took, images still correct after it). Broken images leave the batch."""
    examples, attacks = Examples(of.images, of.labels, np.arange(len(of.labels))), cascade(text, eps)
    begin = time.perf_counter()
    found = run_attacks(of.model, examples, attacks, key=jax.random.key(0), num_classes=CLASSES)
    return time.perf_counter() - begin, int(found.correct.sum())


def cascade(text: str, eps: float) -> list[NamedAttack]:
    """The attacks of a text, each on what is left by those before it: of "autoattack" those of its version."""
    if spec.parse(text)[0] != "autoattack":
        return [named(text, eps)]
    return autoattack(autoattack_version(text), "linf", eps, CLASSES)[0]


def settings(text: str, eps: float) -> dict[str, Any]:
    """The settings of an attack, for the other side."""
    first = cascade(text, eps)[0]
    return dataclasses.asdict(first.cfg) | {"classes": CLASSES}


def passes(text: str) -> dict[str, list[int]]:
    """[forward passes alone, forward and backward passes] per image on either side, if no image is broken.

    {} for a cascade, of which each attack sees what the last one has left.
    """
    if len(cascade(text, 0.1)) > 1:
        return {}
    forward, backward = named(text, 0.0).passes(CLASSES)
    ours = [forward - backward + 2, backward]  # the clean and the attacked image are classified too
    if not backward:
        return {"ours": ours, "theirs": [forward + 3, 0]}
    return {"ours": ours, "theirs": [1, backward] if text.startswith("apgd") else [0, backward - 1]}


def work(of: Problem) -> tuple[int, int]:
    """FLOPs of the forward pass of one image, and of forward and backward pass."""
    one, (forward, variables) = jax.ShapeDtypeStruct((1, *of.images.shape[1:]), np.float32), of.model.classifier
    gradient = jax.grad(lambda x, variables: jnp.sum(forward(variables, x)))
    return flops.count(forward, variables, one), flops.count(gradient, one, variables)


def environment() -> dict[str, Any]:
    """The version of jax, and the rate of its matrix products (FLOP/s)."""
    rate = throughput.matmul_rate(sharding.data_mesh(), "float32", 2.0)
    return {"jax": jax.__version__, "matmul_flops_per_s": rate}
