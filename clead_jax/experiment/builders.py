"""From a config to objects: the only file that knows every room.

Below this line there is no ConfigDict: rooms get frozen dataclasses, functions and plain values.
"""

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from clead_jax import config, data
from clead_jax.attacks import parse as arsenal
from clead_jax.core import spec
from clead_jax.core.registry import BACKBONES
from clead_jax.core.types import PyTree, Step
from clead_jax.losses import parse as criteria
from clead_jax.losses.contrastive import SIMILARITIES
from clead_jax.models import Network
from clead_jax.training import checkpoint, joint, optimizers, pretrain, supervised, views
from clead_jax.training.loop import Plan


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
    "joint": ("backbone", "projector", "head"),
}
VIEWED = ("pretrain", "joint")  # stages that train on the views of `config.views`


def check(cfg: Any) -> None:
    """Everything that can be refused before data are read: plugins, names, attacks, the loss. Raises ValueError."""
    import_plugins(cfg)
    config.validate(cfg)
    BACKBONES[cfg.model.backbone]
    view_list(cfg)
    criteria.check(cfg)
    data.AugmentConfig(**cfg.augment)
    for stage in config.TRAINED_STAGES:
        optimizers.make(cfg[stage], 1, 1)
        if cfg[stage].get("attack"):
            arsenal.training_attack(cfg, cfg[stage].attack)
    for text in arsenal.asked_for(cfg)[0]:
        arsenal.evaluation_attack(cfg, text)
    arsenal.curve_attack(cfg)
    for text in spec.items(cfg.evaluation.distances):
        arsenal.distance_attack(cfg, text)
    arsenal.validation_attack(cfg)


def import_plugins(cfg: Any) -> None:
    """Imports `cfg.plugins`, whose entries register themselves. ValueError naming one that is not there."""
    for module in spec.items(cfg.plugins):
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
    return tuple(t if t in ("clean", "augmented") else arsenal.training_attack(cfg, t) for t in spec.items(cfg.views))


def check_batch(cfg: Any, name: str, labels: np.ndarray, num_classes: int, devices: int) -> None:
    """Raises ValueError where a stage's batches cannot be: too few images, or a number that devices cannot share;
    labels the classifier has no output for; one view of so few images that a batch may hold no two of one class.
    """
    size, classes = cfg[name].batch_size, len(np.unique(labels))
    if size > len(labels):
        raise ValueError(f"{name}.batch_size is {size}, but there are only {len(labels)} training images")
    if size % devices:
        raise ValueError(f"{name}.batch_size is {size}; it must be divisible by the {devices} devices")
    if labels.max() >= num_classes:
        raise ValueError(f"{name}: labels go up to {labels.max()}, but the head has {num_classes} classes")
    pairs_up = name == "pretrain" or (name == "joint" and (cfg.joint.weight_supcon or cfg.joint.weight_margin))
    if pairs_up and len(spec.items(cfg.views)) == 1 and size <= classes:
        raise ValueError(
            f"{name}.batch_size is {size} and views is {cfg.views!r}: a batch may hold no positive pair, for there are "
            f"{classes} classes; take a batch above {classes}, or two views (clean,augmented)"
        )


def stage(cfg: Any, name: str, net: Network, num_examples: int) -> Stage:
    """A stage's step, optimizer and length."""
    own = cfg[name]
    plan = Plan(num_examples, own.batch_size, own.epochs)
    augment = _augment(cfg, own.get("augment", True))
    tx = optimizers.make(own, plan.total_steps, plan.steps_per_epoch, own.get("online_lr", 0.0))
    if name in VIEWED:
        make_views = views.make_views(view_list(cfg), _target(own, net), augment)
        if name == "pretrain":
            step = pretrain.make_step(net, tx, make_views, criteria.contrastive(cfg))
        else:
            step = joint.make_step(net, tx, make_views, criteria.joint_terms(cfg))
        attacked = [t for t in spec.items(cfg.views) if t not in ("clean", "augmented")]
        passes = sum(arsenal.training_cost(cfg, t) for t in attacked) + len(spec.items(cfg.views))
    else:
        attack = own.get("attack")
        step = supervised.make_step(net, tx, augment, _perturb(cfg, attack, net) if attack else None)
        passes = 1 + (arsenal.training_cost(cfg, attack) if attack else 0)
    return Stage(step, tx, TRAINED_PARTS[name], plan, passes)


def _augment(cfg: Any, wanted: bool) -> supervised.Augment:
    if not wanted:
        return lambda keys, images: data.to_float(images)
    augment_cfg = data.AugmentConfig(**cfg.augment)
    return lambda keys, images: data.augment(keys, images, augment_cfg)


def _target(own: Any, net: Network) -> views.Target:
    if own.ascend == "online":
        return views.online(net)
    if own.ascend == "baseline":
        return views.baseline(net)
    similarity, by_class = own.get("similarity", "cosine"), own.get("positives", "class") == "class"
    return views.contrastive(net, SIMILARITIES[similarity], own.temperature, by_class)


def _perturb(cfg: Any, text: str, net: Network) -> supervised.Perturb:
    attack, model = arsenal.training_attack(cfg, text), forward(net)
    return lambda variables, x, labels, keys: attack(lambda images: model(variables, images), x, labels, keys)


def upstream(cfg: Any, name: str) -> tuple[str, int | str] | None:
    """The checkpoint (stage, which) whose weights a stage starts from, or None: it starts from scratch."""
    if name == "probe":
        return "pretrain", cfg.probe.start
    if name in VIEWED and cfg[name].start == "baseline":
        return "baseline", "latest"
    return None


def needs_reference(cfg: Any, name: str) -> bool:
    """Whether a stage's attacks climb the frozen baseline."""
    return name in VIEWED and cfg[name].ascend == "baseline"


def seed_of(cfg: Any, stage_name: str) -> jax.Array:
    """The key of a stage."""
    return jax.random.fold_in(jax.random.key(cfg.seed), config.TRAINED_STAGES.index(stage_name))


def rounded_up(n: int, multiple: int) -> int:
    """n to the next multiple."""
    return math.ceil(n / multiple) * multiple
