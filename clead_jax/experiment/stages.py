"""Stages as data: from a stage's section of the config to its step, and to everything else that follows from it.

Nothing here, or below, knows a stage by its name: what a stage trains, starts from, attacks and reads are fields of its
section (see `config.schema`), what its loss is made of is its kind.
"""

import zlib
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from clead_jax import config, data
from clead_jax.config import Config, Contrastive, Joint
from clead_jax.core import numerics, sharding, spec
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Key, NamedAttack, Step
from clead_jax.experiment import builders, changing, choosing, embeddings, label_use, planning, terms, without_labels
from clead_jax.experiment.builders import attacked, extra_per_batch, stored, view_texts
from clead_jax.losses.contrastive import SIMILARITIES
from clead_jax.models import Network
from clead_jax.training import averaging, momentum, optimizers, perturbation, views
from clead_jax.training.loop import Plan
from clead_jax.training.state import Extra, together
from clead_jax.training.step import in_turn, make_step

FIRST = ("baseline", "supervised", "pretrain", "probe", "joint")  # their keys are their places in this list
SHAPED_BY = {"supervised": ("loss",), "contrastive": ("weights", "loss"), "joint": ("margin_form",)}
"""What is named if views do not fit it: the first of these that is set."""


class Validation(NamedTuple):
    """How a stage is validated: every so many epochs, on so many images, under this attack."""

    every: int
    num_examples: int
    attack: NamedAttack


class Stage(NamedTuple):
    """A trained stage, ready for the loop."""

    name: str
    step: Step
    tx: optax.GradientTransformation
    extra: Extra
    trained: tuple[str, ...]  # parts of the network
    two_norms: bool  # whether its variables hold a second copy of every BatchNorm
    moving: tuple[str, ...]  # parts whose batch statistics move on though they are not trained
    fresh: tuple[str, ...]  # parts that do not come from `origin`
    origin: tuple[str, str] | None  # (stage, "latest" or "best") whose weights it starts from
    reference: str | None  # the stage whose frozen weights its attacks look at
    teacher: str | None  # the stage whose frozen embeddings its loss reads
    labelled_by: tuple[str, str, str] | None  # (stage, its weights, how) that say what its labels are
    neighbours: tuple[str, str, int] | None  # (stage, its weights, how many) in whose features images have neighbours
    plan: Plan
    stored: tuple[NamedAttack, ...]  # its static views: those that are made before training
    passes: int  # forward+backward passes per training image
    key: Key
    augment: views.Augment
    validation: Validation
    save_every: int  # epochs
    log_every: int  # steps
    fields: dict[str, Any]  # what its weights depend on


@numerics.defaults()
def check(cfg: Config) -> None:
    """Everything that can be refused before data are read: plugins, names, attacks, losses. Raises ValueError."""
    builders.import_plugins(cfg)
    builders.name_as_here(cfg)
    config.validate(cfg)
    builders.check_backbone(cfg)
    builders.augment_config(cfg)
    for name in config.stages_of(cfg):
        optimizers.make(optimizer(cfg, name), 1, 1)
        averaging.extra(cfg[name].average, 1, 1)
        perturbation.perturbation(cfg[name].perturb, 1)
        view_list(cfg, name)
        attacks = attacks_of(cfg, name)
        embeddings.check(cfg, name, attacks, len(view_texts(cfg, name)) - len(attacks))
        named = partial(builders.named_training_attack, cfg)
        choosing.check(getattr(cfg[name], "strategy", ""), attacks, named, f"{name}.strategy")
        without_labels.way(cfg[name].pseudo_labels_by)
        _check_neighbours(cfg, name)
        label_use.check_extra(cfg, name)
        _check_terms(cfg, name, attacks)
    for text in planning.asked_for(cfg)[0]:
        planning.evaluation_attack(cfg, text)
    planning.transfer_attacks(cfg, planning.asked_for(cfg)[0])
    planning.curve_attack(cfg)
    for text in spec.items(cfg.evaluation.distances):
        planning.distance_attack(cfg, text)
    planning.validation_attack(cfg)


def check_radii(cfg: Config, size: int) -> None:
    """Raises ValueError for a radius beyond the cube of all images of `size` pixels."""
    own = cfg.evaluation
    radii = [("evaluation.curve", eps, own.norm) for eps in spec.items(own.curve)]
    radii += [(f"{name}.eps", cfg[name].eps, cfg[name].norm) for name in ("evaluation", "train_attack")]
    trained = {text for name in config.stages_of(cfg) for text in attacked(cfg, name)}
    used = [planning.validation_attack(cfg), *(builders.named_training_attack(cfg, text) for text in sorted(trained))]
    for named in used:
        if not ATTACKS[spec.parse(named.name)[0]].info.get("nearest"):
            radii.append((f"{named.name}: eps", named.cfg.eps, named.cfg.norm))
    for name, eps, norm in radii:
        spec.unit(eps, name, norm, size)


def _check_neighbours(cfg: Config, name: str) -> None:
    shown = any(spec.parse(text)[0] == "neighbour" for text in view_texts(cfg, name) if not builders.static(text))
    if shown and not cfg[name].neighbours:
        raise ValueError(f"{name}: the view neighbour needs {name}.neighbours, a stage with whose features it is found")


def _check_terms(cfg: Config, name: str, attacks: list[NamedAttack]) -> None:
    own, texts = cfg[name], view_texts(cfg, name)
    drawn = (*view_list(cfg, name), *embeddings.start_list(cfg, name))
    can_change = terms.can_change(cfg, name)
    fades = any(isinstance(view, views.Draw) for view in drawn) or "strength" in can_change
    changing.check(own, name, attacks, fades, can_change)
    terms.check_changes(cfg, name)
    if name not in spec.items(cfg.stages):
        return
    builders.check_static(cfg, name, texts)
    keys = len(texts) if getattr(own, "key_momentum", 0) else 0
    field = next(filter(own.__getitem__, SHAPED_BY[own.kind]))
    try:
        terms.check_shapes(cfg, name, len(texts), len(texts) + bool(config.teacher(cfg, name)) + keys)
    except ValueError as error:
        raise ValueError(f"views {','.join(texts)!r} with {name}.{field} {own[field]!r}: {error}") from None


def check_batch(cfg: Config, name: str, labels: np.ndarray, num_classes: int, devices: int) -> None:
    """Raises ValueError where a stage's batches cannot be: too few images, or a number that devices cannot share;
    labels the classifier has no output for; batches that hold nothing to compare an image with, or may hold no two of
    one class where there is one view.
    """
    own, size = cfg[name], cfg[name].batch_size
    classes = num_classes if config.labelled_by(cfg, name) else len(np.unique(labels))
    if labels.max() < 0:
        label_use.check_unlabelled(cfg, name)
    if size > len(labels):
        raise ValueError(f"{name}.batch_size is {size}, but there are only {len(labels)} training images")
    if size % (devices * own.accumulate):
        parts = f", {own.accumulate} times for {name}.accumulate" if own.accumulate > 1 else ""
        raise ValueError(f"{name}.batch_size is {size}; it must be divisible by the {devices} devices{parts}")
    if labels.max() >= num_classes:
        raise ValueError(f"{name}: labels go up to {labels.max()}, but the head has {num_classes} classes")
    pairs_up = (isinstance(own, Contrastive) and not own.teacher) or (
        isinstance(own, Joint) and (own.weight_supcon or own.weight_margin)
    )
    by_class = isinstance(own, Joint) or "positives" in label_use.reads_labels(cfg, name)
    if size < 2 and (pairs_up or own.ascend in config.UNLABELLED):
        raise ValueError(f"{name}.batch_size is {size}: there are no negatives in a batch of one image; take 2 or more")
    if pairs_up and by_class and classes < 2:
        raise ValueError(f"{name}: all images are of one class, so there are no negatives to a class; give two or more")
    if pairs_up and len(view_texts(cfg, name)) == 1 and size <= classes:
        raise ValueError(
            f"{name}.batch_size is {size} and views is {cfg.views!r}: a batch may hold no positive pair, for there are "
            f"{classes} classes; take a batch above {classes}, or two views (clean,augmented)"
        )


def build(
    cfg: Config,
    name: str,
    net: Network,
    num_examples: int,
    image_shape: tuple[int, ...],
    more: int = 0,
    mesh: jax.sharding.Mesh | None = None,
) -> Stage:
    """A stage's step, optimizer and length. `more`: how many images without labels there are besides; `mesh`: what the
    step is compiled for, None for one of jax's own devices.
    """
    own, platform = cfg[name], sharding.platform_of(mesh) if mesh else ""
    plan = Plan(num_examples, own.batch_size, own.epochs, more, extra_per_batch(cfg, name))
    tx = optimizers.make(optimizer(cfg, name), plan.total_steps, plan.steps_per_epoch)
    augment, key = _augment(cfg, getattr(own, "augment", True)), key_of(cfg.seed, name)
    named = partial(builders.named_training_attack, cfg)
    attack = partial(builders.training_attack, cfg, platform=platform)
    strategy = choosing.strategy(own, net, image_shape, plan, augment, key, attack, named)
    averages = averaging.extra(own.average, plan.total_steps, plan.steps_per_epoch)
    dim = embeddings.width(own, net, image_shape) if getattr(own, "bank", 0) else 0
    changes = changing.changing(own, plan, dim)
    extra = together(averages, strategy.extra, momentum.extra(getattr(own, "key_momentum", 0.0)), changes.extra)
    perturb = perturbation.perturbation(own.perturb, plan.steps_per_epoch)
    target, rate = _target(own, net, sharding.gathered_once(mesh)), getattr(own, "attacked", 1.0)
    choose = lambda *of: {**changes.choose(*of), **strategy.choose(*of)}
    starts, pairs = embeddings.start_list(cfg, name), own.ascend == "pairs"
    listed = view_list(cfg, name, platform)
    made = views.make_views(listed, target, augment, choose, rate, starts, changes.strength, pairs)
    beside: dict[str, Any] = {"extra": extra, "perturb": perturb, "after": in_turn(strategy.after, changes.after)}
    hostile = tuple(text in {*attacked(cfg, name), *stored(cfg, name)} for text in view_texts(cfg, name))
    beside |= embeddings.settings(own, net, augment, hostile, mesh)
    found = lambda state: terms.terms(cfg, name, changes.now(state))
    cost = sum(max(each.passes(net.num_classes)) for each in attacks_of(cfg, name)) + strategy.passes
    return Stage(
        name=name,
        step=make_step(net, tx, made, found, online=isinstance(own, Contrastive), **beside),
        tx=tx,
        extra=extra,
        trained=embeddings.trained(own),
        two_norms=embeddings.two_norms(cfg, name),
        moving=("backbone",) if own.batch_stats == "reestimate" else (),
        fresh=spec.items(own.fresh),
        origin=config.origin(cfg, name),
        reference=config.reference(cfg, name),
        teacher=config.teacher(cfg, name),
        labelled_by=(*labelled, own.pseudo_labels_by) if (labelled := config.labelled_by(cfg, name)) else None,
        neighbours=(*near, own.neighbour_count) if (near := config.neighbours_of(cfg, name)) else None,
        plan=plan,
        stored=tuple(named(text) for text in stored(cfg, name)),
        passes=cost + len(view_texts(cfg, name)) * (2 if perturb else 1),
        key=key,
        augment=augment,
        validation=Validation(cfg.validation.every, cfg.validation.num_examples, planning.validation_attack(cfg)),
        save_every=cfg.checkpoint.every,
        log_every=cfg.log.every,
        fields=config.stage_fields(cfg, name),
    )


def key_of(seed: int, name: str) -> Key:
    """The key of a stage: by its place in `FIRST`, by its name if it is not there."""
    number = FIRST.index(name) if name in FIRST else zlib.crc32(name.encode())
    return jax.random.fold_in(numerics.key(seed), number)


def optimizer(cfg: Config, name: str) -> optimizers.Settings:
    """The optimizer's settings."""
    own = cfg[name]
    names = ("optimizer", "lr", "momentum", "weight_decay", "schedule", "warmup_epochs")
    return optimizers.Settings(**{n: own[n] for n in names}, online_lr=getattr(own, "online_lr", 0.0))


def view_list(cfg: Config, name: str, platform: str = "") -> tuple[views.Attack | views.Draw | views.Stored | str, ...]:
    """The same: attacks as functions, draws with settings of their own and stored views as such, others by name."""
    return tuple(_view(cfg, name, text, platform) for text in view_texts(cfg, name))


def _view(cfg: Config, name: str, text: str, platform: str) -> views.Attack | views.Draw | views.Stored | str:
    if text in views.PLAIN:
        return text
    if text in (made_before := stored(cfg, name)):
        return views.Stored(made_before.index(text))
    hostile = text in attacked(cfg, name)
    return builders.training_attack(cfg, text, platform) if hostile else builders.draw(cfg, text)


def attacks_of(cfg: Config, name: str) -> list[NamedAttack]:
    """Those that are made in every step, with their settings."""
    return [builders.named_training_attack(cfg, text) for text in attacked(cfg, name)]


def _augment(cfg: Config, wanted: bool) -> views.Augment:
    if not wanted:
        return lambda keys, images: data.to_float(images)
    augment_cfg = builders.augment_config(cfg)
    return lambda keys, images: data.augment(keys, images, augment_cfg)


def _target(own: Any, net: Network, whole: views.Whole) -> views.Target:
    target = _any_other(own, net, whole)
    return embeddings.to_likeliest(target) if own.goal else target


def _any_other(own: Any, net: Network, whole: views.Whole) -> views.Target:
    if target := embeddings.target(own, net, whole):
        return target
    if own.ascend == "online":
        return views.online(net, train=own.attack_batch_norm == "train")
    if own.ascend != "contrastive":
        return views.of_reference(net)
    similarity, by_class = getattr(own, "similarity", "cosine"), getattr(own, "positives", "class") == "class"
    return views.contrastive(net, SIMILARITIES[similarity], getattr(own, "temperature", 0.1), by_class, whole)


def trained_on(cfg: Config, name: str) -> set[str]:
    """Names of the views and attacks that a model was trained on, also in the stages it starts from."""
    sources = {*(config.origin(cfg, name) or ())[:1], *filter(None, [config.teacher(cfg, name)])}
    before = set().union(*(trained_on(cfg, source) for source in sources))
    found = {spec.parse(builders.static(text) or text)[0] for text in view_texts(cfg, name)}
    return before | {ATTACKS[text].info.get("form_of", text) if text in ATTACKS else text for text in found}


def batch_stats(cfg: Config, name: str) -> str:
    """ "frozen" or "reestimate": the BatchNorm of a backbone that this stage does not train; "" where it does."""
    return "" if "backbone" in spec.items(cfg[name].trains) else cfg[name].batch_stats
