"""From a config to objects: the only file that knows every room.

Below this line there is no ConfigDict: rooms get frozen dataclasses, functions and plain values.
"""

import dataclasses
import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from clead_jax import arsenal, checkpoint, config, data, values
from clead_jax.losses.contrastive import SIMILARITIES
from clead_jax.models import Network
from clead_jax.registry import BACKBONES, LOSSES
from clead_jax.training import optimizers, pretrain, supervised, views
from clead_jax.training.loop import Plan
from clead_jax.types import PyTree, Step


class Splits(NamedTuple):
    """The examples of a run; `test` is for the last table only."""

    train: data.Examples
    validation: data.Examples
    test: data.Examples


class Stage(NamedTuple):
    """A trained stage, ready for the loop."""

    step: Step
    tx: optax.GradientTransformation
    trained: tuple[str, ...]  # parts of the network
    plan: Plan
    passes: int  # forward+backward passes per training image


TRAINED_PARTS = {
    "baseline": ("backbone", "head"),
    "supervised": ("backbone", "head"),
    "pretrain": ("backbone", "projector", "head"),
    "probe": ("head",),
}


def check(cfg: Any) -> None:
    """Everything that can be refused before data are read: plugins, names, attacks, the loss. Raises ValueError."""
    import_plugins(cfg)
    config.validate(cfg)
    BACKBONES[cfg.model.backbone]
    number_of_views = len(view_list(cfg))
    abstract = jax.ShapeDtypeStruct((2, number_of_views, 8), np.float32), jax.ShapeDtypeStruct((2,), np.int32)
    try:
        jax.eval_shape(loss(cfg), *abstract)
    except ValueError as error:  # weights and views that do not fit each other
        raise ValueError(f"views {cfg.views!r} with pretrain.weights {cfg.pretrain.weights!r}: {error}") from None
    data.AugmentConfig(**cfg.augment)
    for stage in config.TRAINED_STAGES:
        optimizers.make(cfg[stage], 1, 1)
        if cfg[stage].get("attack"):
            arsenal.training_attack(cfg, cfg[stage].attack)
    for text in values.items(cfg.evaluation.attacks):
        arsenal.evaluation_attack(cfg, text)
    for text in values.items(cfg.evaluation.distances):
        arsenal.distance_attack(cfg, text)
    arsenal.validation_attack(cfg)


def import_plugins(cfg: Any) -> None:
    """Imports `cfg.plugins`, whose entries register themselves. ValueError naming one that is not there."""
    for module in values.items(cfg.plugins):
        try:
            importlib.import_module(module)
        except (ModuleNotFoundError, TypeError, ValueError) as error:
            raise ValueError(f"plugins: cannot import {module!r} ({error})") from error


# --- data and model ---------------------------------------------------------------------------------------------------


def dataset(cfg: Any) -> data.Dataset:
    """The data set named by the config, in memory."""
    return data.load(cfg.data.name, data_dir=cfg.data.data_dir or None, image_size=cfg.data.image_size or None)


def splits(cfg: Any, ds: data.Dataset) -> Splits:
    """Training, validation and test examples; subsets are class-balanced and depend on the seed alone."""
    train, validation = data.train_validation_split(ds, cfg.data.validation, cfg.seed)
    test = ds.test
    return Splits(_subset(cfg, train, "train_size"), validation, _subset(cfg, test, "test_size"))


def _subset(cfg: Any, examples: data.Examples, field: str) -> data.Examples:
    wanted, there = cfg.data[field], len(examples.labels)
    if wanted > there:
        raise ValueError(f"data.{field} is {wanted}, but there are only {there} images")
    return data.subset(examples, wanted, cfg.seed) if wanted else examples


def network_fields(cfg: Any, ds: data.Dataset, train: data.Examples) -> dict[str, Any]:
    """What `Network` is made from: plain values, kept in every checkpoint, so that it can be rebuilt without data."""
    mean, std = pixel_statistics(train.images)
    return {**cfg.model, "num_classes": ds.num_classes, "mean": mean, "std": std}


def pixel_statistics(images: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of uint8 images [N, H, W, C], in [0, 1] units, to four places.

    Counted, not summed: float32 sums of a whole CIFAR stop growing at 2^24.
    """
    level = np.arange(256) / 255
    share = np.stack([np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]) / (
        images[..., 0].size
    )
    mean = share @ level
    std = np.sqrt(share @ level**2 - mean**2)
    return mean.round(4).tolist(), np.maximum(std, 1e-3).round(4).tolist()


def network(fields: dict[str, Any]) -> Network:
    """The network of `network_fields`."""
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Network(**plain)


def forward(net: Any) -> Callable[[PyTree, jax.Array], jax.Array]:
    """(variables, x [B, H, W, C] in [0, 1]) -> logits [B, K], BatchNorm in eval mode."""
    return lambda variables, x: net.apply(variables, x, False, method=net.logits)


def load(workdir: str, stage: str | None = None, which: int | str = "latest") -> tuple[Callable, PyTree]:
    """A trained model for your own code: (forward, variables), `forward(variables, x)` from pixels in [0, 1] to logits.

    `stage` is the defended model's by default ("probe", or "supervised"); "baseline" gives the undefended one. `which`
    is "latest", "best" or a step. Raises ValueError if the work directory has no such checkpoint.
    """
    cfg, _ = config.restore(workdir)
    import_plugins(cfg)
    variables, meta = checkpoint.restore_model(checkpoint_dir(workdir, stage or cfg.defended), which)
    return forward(network(meta["network"])), variables


def checkpoint_dir(workdir: str, stage: str) -> str:
    """Where a stage's checkpoints lie."""
    return f"{workdir}/checkpoints/{stage}"


# --- training ---------------------------------------------------------------------------------------------------------


def view_list(cfg: Any) -> tuple[views.Attack | str, ...]:
    """The views of `config.views`: attacks as functions, "clean" and "augmented" by name."""
    return tuple(t if t in ("clean", "augmented") else arsenal.training_attack(cfg, t) for t in values.items(cfg.views))


def loss(cfg: Any) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """(z [B, V, D], labels [B]) -> scalar: the registered loss, averaged over its anchors."""
    entry = LOSSES[cfg.pretrain.loss]
    weights = tuple(values.number(w, "pretrain.weights") for w in values.items(cfg.pretrain.weights))
    names = {f.name for f in dataclasses.fields(entry.config)}
    settings = {k: cfg.pretrain[k] for k in ("temperature", "similarity", "pairing", "positives") if k in names}
    loss_cfg = entry.config(**settings, **({"weights": weights} if "weights" in names else {}))
    return lambda z, labels: entry.value(z, labels, loss_cfg).sum(-1).mean()  # the columns' weights sum to 1


def check_batch(cfg: Any, name: str, num_examples: int, devices: int) -> None:
    """Raises ValueError where a stage has fewer images than a batch, or a batch that the devices cannot share."""
    size = cfg[name].batch_size
    if size > num_examples:
        raise ValueError(f"{name}.batch_size is {size}, but there are only {num_examples} training images")
    if size % devices:
        raise ValueError(f"{name}.batch_size is {size}; it must be divisible by the {devices} devices")


def stage(cfg: Any, name: str, net: Network, num_examples: int) -> Stage:
    """A stage's step, optimizer and length."""
    own = cfg[name]
    plan = Plan(num_examples, own.batch_size, own.epochs)
    augment = _augment(cfg, own.get("augment", True))
    if name == "pretrain":
        tx = optimizers.make(own, plan.total_steps, plan.steps_per_epoch, own.online_lr)
        make_views = views.make_views(view_list(cfg), _target(cfg, net), augment)
        step = pretrain.make_step(net, tx, make_views, loss(cfg))
        attacked = [t for t in values.items(cfg.views) if t not in ("clean", "augmented")]
        passes = sum(arsenal.training_cost(cfg, t) for t in attacked) + len(values.items(cfg.views))
    else:
        tx = optimizers.make(own, plan.total_steps, plan.steps_per_epoch)
        step = supervised.make_step(net, tx, augment, _perturb(cfg, own.attack, net) if own.attack else None)
        passes = 1 + (arsenal.training_cost(cfg, own.attack) if own.attack else 0)
    return Stage(step, tx, TRAINED_PARTS[name], plan, passes)


def _augment(cfg: Any, wanted: bool) -> supervised.Augment:
    if not wanted:
        return lambda keys, images: data.to_float(images)
    augment_cfg = data.AugmentConfig(**cfg.augment)
    return lambda keys, images: data.augment(keys, images, augment_cfg)


def _target(cfg: Any, net: Network) -> views.Target:
    own = cfg.pretrain
    if own.ascend == "online":
        return views.online(net)
    if own.ascend == "baseline":
        return views.baseline(net)
    return views.contrastive(net, SIMILARITIES[own.similarity], own.temperature, own.positives == "class")


def _perturb(cfg: Any, text: str, net: Network) -> supervised.Perturb:
    attack, model = arsenal.training_attack(cfg, text), forward(net)
    return lambda variables, x, labels, keys: attack(lambda images: model(variables, images), x, labels, keys)


def upstream(cfg: Any, name: str) -> tuple[str, int | str] | None:
    """The checkpoint (stage, which) whose weights a stage starts from, or None: it starts from scratch."""
    if name == "probe":
        return "pretrain", cfg.probe.start
    if name == "pretrain" and cfg.pretrain.start == "baseline":
        return "baseline", "latest"
    return None


def needs_reference(cfg: Any, name: str) -> bool:
    """Whether a stage's attacks climb the frozen baseline."""
    return name == "pretrain" and cfg.pretrain.ascend == "baseline"


def seed_of(cfg: Any, stage_name: str) -> jax.Array:
    """The key of a stage."""
    return jax.random.fold_in(jax.random.key(cfg.seed), config.TRAINED_STAGES.index(stage_name))


def rounded_up(n: int, multiple: int) -> int:
    """n to the next multiple."""
    return math.ceil(n / multiple) * multiple
