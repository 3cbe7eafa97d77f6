"""From the config to data, network and attacks. Raises ValueError, one line, for what cannot be built."""

import dataclasses
import importlib
import inspect
import math
import re
import sys
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax import attacks, data
from clead_jax.attacks import parse
from clead_jax.attacks.objectives import kl
from clead_jax.config import Config, Contrastive, Joint, reference, stages_of
from clead_jax.core import names, spec
from clead_jax.core.progress import log
from clead_jax.core.registry import BACKBONES
from clead_jax.core.types import CleanLogits, Examples, NamedAttack
from clead_jax.data.splits import pixel_statistics
from clead_jax.models import Network
from clead_jax.results import forms
from clead_jax.training import checkpoint
from clead_jax.training.views import UNATTACKED, Attack, Draw

_SIZE = forms.Number(0, 1e6, whole=True)
_CHANNELS = [forms.Number(-1e6, 1e6)]
_NETWORK: dict[Any, Any] = {
    "backbone": str,
    "num_classes": forms.Number(1, 1e6, whole=True),
    "mean": _CHANNELS,
    "std": _CHANNELS,
}
_NETWORK |= {"width?": _SIZE, "stem?": str, "dtype?": str, "projection_dim?": _SIZE, "projection_hidden?": _SIZE}
_NETWORK |= {"projection_layers?": _SIZE, "projection_norm?": bool, "remat?": bool}
META: dict[Any, Any] = {"network": _NETWORK, "image_shape": 3 * [forms.Number(1, 1e5, whole=True)], "epoch": _SIZE}
META |= {"fields": {str: object}, "stage?": str}
NOT_READ = {"cifar10": 10, "cifar100": 100}  # data sets of 50,000 images of 32 x 32 x 3 pixels, by number of classes


class Splits(NamedTuple):
    """The examples of a run; `test` is for the last table only."""

    train: Examples
    validation: Examples
    test: Examples


def import_plugins(cfg: Config) -> None:
    """Imports `cfg.plugins`, whose entries register themselves. ValueError naming one that is not there."""
    for module in spec.items(cfg.plugins):
        try:
            importlib.import_module(module)
        except (ModuleNotFoundError, TypeError, ValueError) as error:
            raise ValueError(f"plugins: cannot import {module!r} ({error})") from error


def name_as_here(cfg: Config) -> None:
    """Attacks and norms under the names they have here: the field writes PGD-20, AutoAttack, Linf."""
    own = cfg.evaluation
    texts: list[tuple[Any, str]] = [(cfg, "views"), (cfg.validation, "attack"), (own.transfer, "attacks")]
    texts += [(own, field) for field in ("attacks", "curve_attack", "distances")]
    texts += [(stage, f) for stage in stages_of(cfg).values() for f in ("attack", "views") if f in stage]
    for section, field in texts:
        written = spec.items(section[field])
        if (known := tuple(map(names.attack, written))) != written:
            section[field] = ",".join(known)
    for section in (own, cfg.train_attack):
        section.norm = names.norm(section.norm)


def import_named(cfg: Config, workdir: str, named: str) -> None:
    """Imports the plugins that the user names, in place of those that the config of a work directory names: a file is
    no reason to run code. One line says which of its own are left out.
    """
    cfg.plugins, own = named, spec.items(cfg.plugins)
    import_plugins(cfg)
    if left_out := [module for module in own if module not in sys.modules]:
        said = f"{workdir} was made with plugins={','.join(left_out)}"
        log.warning(spec.visible(f"{said}, not imported here: name them with plugins= or --plugins= if you trust them"))


def dataset(cfg: Config) -> data.Dataset:
    """The data set named by the config."""
    return _load(cfg, cfg.data.name)


def _load(cfg: Config, name: str, whole: bool = False) -> data.Dataset:
    own = cfg.data
    where: dict[str, Any] = {"data_dir": own.data_dir or None, "image_size": own.image_size or None}
    return data.load(name, **where, whole=whole, in_memory=own.resident_limit)


def extra_images(cfg: Config, shape: tuple[int, ...]) -> np.ndarray:
    """The images of `data.extra`, uint8 [M, H, W, C], in their order; of a set with a test split those to train on.

    Raises ValueError if they are of another shape.
    """
    own, found = cfg.data, _load(cfg, cfg.data.extra, whole=True)
    if found.image_shape != shape:
        shapes = " and ".join("x".join(map(str, each)) for each in (found.image_shape, shape))
        raise ValueError(f"data.extra: images of {found.name} and {own.name} are of several shapes ({shapes})")
    return found.train_images


def extra_per_batch(cfg: Config, name: str) -> int:
    """How many images of a stage's batch are of `data.extra`."""
    own = cfg[name]
    return round(cfg.data.extra_share * own.batch_size) if cfg.data.extra and isinstance(own, Contrastive) else 0


def random_dataset(cfg: Config, size: int) -> data.Dataset:
    """`size` random images and labels, in the shape and classes of `cfg.data.name`: it is read for them, save CIFAR."""
    side = cfg.data.image_size or 32
    shape: tuple[int, ...] = (side, side, 3)
    classes = NOT_READ.get(cfg.data.name, 0)
    if not classes:
        real = dataset(cfg)
        shape, classes = real.image_shape, real.num_classes or cfg.data.classes or 1
    random = np.random.default_rng(cfg.seed)
    images = random.integers(0, 256, (size, *shape), np.uint8)
    labels = random.integers(0, classes, size, np.int32)
    return data.Dataset(cfg.data.name, images, labels, images, labels, tuple(map(str, range(classes))))


def num_training(cfg: Config) -> int:
    """How many images of `cfg.data.name` are trained on: it is read for them, save CIFAR."""
    own = cfg.data
    whole = 50_000 if own.name in NOT_READ else len(dataset(cfg).train_labels)
    return own.train_size or whole - round(own.validation * whole if own.validation < 1 else own.validation)


def splits(cfg: Config, ds: data.Dataset) -> Splits:
    """Training, validation and test examples; subsets are class-balanced and depend on the seed alone."""
    train, validation = data.train_validation_split(ds, cfg.data.validation, cfg.seed)
    return Splits(_subset(cfg, train, "train_size"), validation, _subset(cfg, ds.test, "test_size"))


def _subset(cfg: Config, examples: Examples, field: str) -> Examples:
    wanted, there = cfg.data[field], len(examples.labels)
    if wanted > there:
        raise ValueError(f"data.{field} is {wanted}, but there are only {there} images")
    return data.subset(examples, wanted, cfg.seed) if wanted else examples


def augment_config(cfg: Config) -> data.AugmentConfig:
    """How training images are augmented. ValueError for values that cannot be."""
    return data.AugmentConfig(**cfg.augment)


def network_fields(cfg: Config, ds: data.Dataset, train: Examples) -> dict[str, Any]:
    """What `Network` is made from: plain values, kept in every checkpoint, so that it can be rebuilt without data."""
    mean, std = pixel_statistics(train.images)
    return {**cfg.model, "num_classes": ds.num_classes or cfg.data.classes or 1, "mean": mean, "std": std}


def check_backbone(cfg: Config) -> None:
    """Raises ValueError for an unknown backbone, and for `model.remat` where it has no such blocks."""
    backbone = BACKBONES[cfg.model.backbone].value
    if cfg.model.remat and "remat" not in inspect.signature(backbone).parameters:
        raise ValueError(f"model.remat is true, but the backbone {cfg.model.backbone!r} takes no argument remat")


def parts_of_a_batch(cfg: Config) -> int:
    """What every batch of training is a multiple of, on each device."""
    return math.lcm(*(own.accumulate for own in stages_of(cfg).values()))


def less_memory(cfg: Config, name: str) -> str:
    """What makes the step of a stage need less memory and is not in use yet, as words of the command line."""
    own, found = cfg[name], []
    if own.batch_size > 1:
        found.append(f"{name}.batch_size={own.batch_size // 2}")
    if cfg.model.dtype == "float32":
        found.append("model.dtype=bfloat16")
    if "backbone" in spec.items(own.trains):
        if not cfg.model.remat and "remat" in inspect.signature(BACKBONES[cfg.model.backbone].value).parameters:
            found.append("model.remat=true")
        if own.batch_size % (2 * own.accumulate) == 0:
            found.append(f"{name}.accumulate={2 * own.accumulate}")
    words = ", ".join(f"--config.{word}" for word in found)
    return f"less is needed with {words}" if words else "less is needed with a smaller model"


def network(fields: dict[str, Any]) -> Network:
    """The network of `network_fields`."""
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Network(**plain)


def latest_meta(workdir: str, stage: str) -> dict[str, Any] | None:
    """What the newest checkpoint of a stage says, None if there is none. Raises ValueError if that cannot be."""
    meta = checkpoint.latest_meta(directory := checkpoint_dir(workdir, stage))
    return checked_meta(meta, directory) if meta else None


def checked_meta(meta: dict[str, Any], directory: str) -> dict[str, Any]:
    """`meta` as `Run.meta` and the training of a stage have made it. Raises ValueError otherwise."""
    try:
        forms.check(meta, META)
    except ValueError as error:
        raise ValueError(f"step.json in {directory} is damaged ({error}); delete that step") from None
    return meta


def checkpoint_dir(workdir: str, stage: str) -> str:
    """Where a stage's checkpoints lie."""
    return f"{workdir}/checkpoints/{stage}"


def static(text: str) -> str:
    """'static(pgd(steps=3))' -> 'pgd(steps=3)', the attack that makes a static view; '' for every other view."""
    found = re.fullmatch(r"static\((.+)\)", text.strip())
    return found[1] if found else ""


def view_texts(cfg: Config, name: str) -> tuple[str, ...]:
    """The views of a stage as they are written: its own, or `config.views` where its kind compares views."""
    own = cfg[name]
    if isinstance(own, Contrastive | Joint):
        return spec.items(getattr(own, "views", "") or cfg.views)
    return spec.items(own.views) or (own.attack or "clean",)


def attacked(cfg: Config, name: str) -> list[str]:
    """Those of them that are attacks made in every step."""
    made = (text for text in view_texts(cfg, name) if not static(text))
    return [text for text in made if spec.parse(text)[0] not in UNATTACKED]


def stored(cfg: Config, name: str) -> list[str]:
    """Those of them that are made once, before training."""
    return [text for text in view_texts(cfg, name) if static(text)]


def check_static(cfg: Config, name: str, texts: tuple[str, ...]) -> None:
    """Raises ValueError for a static view among the views of a stage that cannot be made before it."""
    for text in filter(static, texts):
        if reference(cfg, name) is None:
            known = ", ".join(other for other in stages_of(cfg) if other != name)
            what = f"view {text!r} is made once, on frozen weights: {name}.ascend must name a stage ({known})"
            raise ValueError(f"{what}, not {cfg[name].ascend!r}")
        if named_training_attack(cfg, text).objective is kl:
            raise ValueError(f"view {text!r}: kl is measured from clean logits, a static view from labels")


def named_training_attack(cfg: Config, text: str) -> NamedAttack:
    """An attack for use in training, static or not: its last iterate counts, which costs no extra pass."""
    common = ("steps", "step_size", "random_start")
    return parse.named_attack(static(text) or text, *threat(cfg.train_attack, common, keep="last"))


def training_attack(cfg: Config, text: str, platform: str = "") -> Attack:
    """The same as a function (forward, x, target, keys, **chosen) -> x_adv, whose settings are those of `text` but for
    the `chosen` ones that it has; of its steps only the first `steps` count. The KL objective's target are the clean
    logits. `platform`: what it is compiled for, "" for jax's default.
    """
    named = named_training_attack(cfg, text)

    def attack(
        model: Any, x: jax.Array, target: Any, keys: jax.Array, steps: jax.Array | None = None, **chosen: Any
    ) -> jax.Array:
        if named.objective is kl:
            target = CleanLogits(target, jax.lax.stop_gradient(model(x)))
        settings = dataclasses.replace(named.cfg, **{k: v for k, v in chosen.items() if k in named.settings})
        return attacks.run(named.attack, model, named.objective, x, target, keys, settings, steps, platform)

    return attack


def draw(cfg: Config, text: str) -> Draw:
    """'augmented(color_jitter=0.5)' -> a view by this augmentation; what is not said is as in `config.augment`. Of
    the neighbour: 'neighbour', 'neighbour(color_jitter=0.5)'.
    """
    if (name := spec.parse(text)[0]) == "clean":
        raise ValueError(f"view {text!r}: {name!r} takes no settings; augmented does")
    augmentation = spec.settings(text, "view", data.AugmentConfig, dict(cfg.augment))
    return Draw(lambda keys, images, strength: data.augment(keys, images, augmentation, strength), name == "neighbour")


def threat(section: Any, common: tuple[str, ...], **more: Any) -> tuple[dict, dict]:
    """What the attacks of a section have in common: norm and radius, and other settings by their names."""
    return {k: section[k] for k in ("norm", "eps")}, {k: section[k] for k in common} | more
