"""What a config may say. Needs no jax and no data."""

import difflib
from typing import Any

from clead_jax.config.schema import FILE_SOURCES, Config, stages_of
from clead_jax.config.sections import flatten
from clead_jax.config.upstream import ASCENDS, DISTANCES, distances, named_weights, needed, weights_of
from clead_jax.core import spec

LATER = ("evaluate", "report")  # stages that train nothing
PROTOCOLS = ("paper", "whitebox", "autoattack")
PARTS = ("backbone", "projector", "head")
BATCH_STATS = ("frozen", "reestimate")  # of a backbone that is not trained
CHOICES = {
    "evaluation.split": ("test", "validation", "train"),
    "evaluation.version": ("standard", "plus", "rand", "fast", "strongest"),
    "evaluation.precision": ("float32", "bfloat16"),
    "model.dtype": ("float32", "bfloat16"),
    "augment.padding": ("black", "reflect"),
    "model.stem": ("cifar", "imagenet"),
}
NOT_EMPTY = {
    "views": "for example clean,pgd,cw",
    "evaluation.attacks": "for example fgsm,pgd,cw",
    "evaluation.protocol": f"some of {', '.join(PROTOCOLS)}",
}
POSITIVE = (
    *("evaluation.curve_examples", "evaluation.corruption_examples", "evaluation.distance_examples"),
    *("evaluation.steps", "evaluation.restarts", "model.width", "model.projection_dim", "model.projection_layers"),
    *("pretrain.temperature", "pretrain.online_lr", "joint.temperature"),
    *("validation.every", "validation.num_examples", "checkpoint.every", "log.every", "train_attack.steps"),
)
NOT_NEGATIVE = (
    *("data.image_size", "data.train_size", "data.test_size", "data.classes", "data.resident_limit"),
    *("evaluation.num_examples", "evaluation.batch_size", "model.projection_hidden"),
)


def validate(cfg: Config) -> None:
    """Raises ValueError, one line, for the first field whose value cannot be meant."""
    flat, stages = flatten(cfg), tuple(stages_of(cfg))
    lists = {"stages": ("stage", (*stages, *LATER)), "evaluation.protocol": ("protocol", PROTOCOLS)}
    for field, (kind, known) in lists.items():
        for name in spec.items(flat[field]):
            if name not in known:
                raise ValueError(f"{field}: unknown {kind} {name!r}; known: {', '.join(known)}")
    for field, choices in (CHOICES | {"defended": stages}).items():
        if flat[field] not in choices:
            raise ValueError(f"{field} is {flat[field]!r}; it can be {', '.join(choices)}")
    for field, example in (NOT_EMPTY | {f"{name}.trains": f"some of {', '.join(PARTS)}" for name in stages}).items():
        if not spec.items(flat[field]):
            raise ValueError(f"{field} is empty; write {example}")
    for field in ("name", "extra"):
        if (text := cfg.data[field]).partition(":")[0::2] in [(source, "") for source in FILE_SOURCES]:
            raise ValueError(f"data.{field} is {text!r}; it lacks the path: npz:FILE or folder:DIR")
    if not 0 < cfg.data.extra_share <= 1:
        raise ValueError(f"data.extra_share is {cfg.data.extra_share}; it is a share of a batch, above 0, at most 1")
    counts = ("epochs", "batch_size", "lr", "neighbour_count")
    for field in (*POSITIVE, *(f"{name}.{field}" for name in stages for field in counts)):
        if not flat[field] > 0:
            raise ValueError(f"{field} is {flat[field]}; it must be above 0")
    rates = ("momentum", "weight_decay", "warmup_epochs")
    for field in (*NOT_NEGATIVE, *(f"{name}.{field}" for name in stages for field in rates)):
        if flat[field] < 0:
            raise ValueError(f"{field} is {flat[field]}; it must not be negative")
    if not 0 <= cfg.seed < 2**32:
        raise ValueError(f"seed is {cfg.seed}; it lies in [0, 2**32)")
    if not 0 < cfg.data.validation < 1:
        raise ValueError(f"data.validation is {cfg.data.validation}; it is a share of train between 0 and 1")
    for name in stages:
        _stage(cfg, name)
    for name in stages:
        if circle := _circle(cfg, name):
            first = circle[0]
            raise ValueError(f"{first}.start, .ascend or .teacher leads back to {first}: {' <- '.join(circle)}")
    _attacks(cfg)


def _stage(cfg: Config, name: str) -> None:
    own, others = cfg[name], tuple(other for other in stages_of(cfg) if other != name)
    for field, most in (("momentum", 1), ("warmup_epochs", own.epochs)):
        if own[field] >= most:
            raise ValueError(f"{name}.{field} is {own[field]}; it must be below {most}")
    if not 0 <= getattr(own, "attacked", 1) <= 1:
        raise ValueError(f"{name}.attacked is {own.attacked}; it is a probability, between 0 and 1")
    if own.batch_stats not in BATCH_STATS:
        raise ValueError(f"{name}.batch_stats is {own.batch_stats!r}; it can be {', '.join(BATCH_STATS)}")
    unset = {"start": "scratch", "pseudo_labels": "empty: true labels", "neighbours": "empty: none"}
    for field, none in unset.items():
        also = ("scratch",) if field == "start" else ("",)
        source, which = weights_of(text := own[field])
        if source not in (*also, *others):
            known = f"{none}, or one of {', '.join(others)} (:best)"
            raise ValueError(f"{name}.{field} is {text!r}; it can be {known}")
        if which not in (there := named_weights(cfg, source) if source in others else ("latest",)):
            raise ValueError(f"{name}.{field} is {text!r}; the weights of {source} are {', '.join(there)}")
    if not 0 <= getattr(own, "key_momentum", 0) < 1:
        raise ValueError(f"{name}.key_momentum is {own.key_momentum}; it lies in [0, 1)")
    for field in ("fade_every", "bank"):
        if getattr(own, field, 0) < 0:
            raise ValueError(f"{name}.{field} is {own[field]}; it must not be negative")
    if own.accumulate < 1:
        raise ValueError(f"{name}.accumulate is {own.accumulate}; it must be 1 or more")
    if own.ascend not in (*ASCENDS, *others) and not distances(own.ascend):
        raise ValueError(f"{name}.ascend is {own.ascend!r}; it can be {', '.join((*ASCENDS, *DISTANCES, *others))}")
    if own.goal not in ("", "likeliest"):
        raise ValueError(f"{name}.goal is {own.goal!r}; it can be likeliest, or empty: any other class")
    if own.goal and distances(own.ascend):
        raise ValueError(
            f"{name}.goal is {own.goal!r}, but {name}.ascend is {own.ascend!r}: embeddings have no classes"
        )
    if own.attack_batch_norm not in ("eval", "train"):
        raise ValueError(f"{name}.attack_batch_norm is {own.attack_batch_norm!r}; it can be eval, train")
    if own.attack_batch_norm == "train" and own.ascend != "online":
        raise ValueError(f"{name}.attack_batch_norm is 'train', which needs {name}.ascend=online, not {own.ascend!r}")
    if (teacher := getattr(own, "teacher", "")) not in ("", *others):
        raise ValueError(f"{name}.teacher is {teacher!r}; it can be {', '.join(others)}, or empty: none")
    if "teacher" in distances(own.ascend) and not teacher:
        raise ValueError(f"{name}.ascend is {own.ascend!r}, but the stage has no teacher: {name}.teacher names one")
    for field in ("trains", "fresh"):
        for part in spec.items(own[field]):
            if part not in PARTS:
                raise ValueError(f"{name}.{field} is {own[field]!r}; its parts can be {', '.join(PARTS)}")


def _circle(cfg: Config, name: str, path: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The stages of a circle that `name` leads into, the first of them last again; () if there is none."""
    if name in path:
        return (*path[path.index(name) :], name)
    return next((found for other in needed(cfg, name) if (found := _circle(cfg, other, (*path, name)))), ())


def _attacks(cfg: Config) -> None:
    own, anchored = cfg.evaluation, "pretrain" in spec.items(cfg.stages) and cfg.pretrain.pairing != "all"
    views = cfg.pretrain.views or cfg.views
    if anchored and spec.items(views)[0].partition("(")[0] not in ("clean", "augmented"):
        rule = f"under pairing={cfg.pretrain.pairing} the first one is the anchor: clean or augmented"
        raise ValueError(f"views is {views!r}; {rule}")
    for section in ("train_attack", "evaluation"):
        for field in ("eps", "step_size"):
            spec.unit(cfg[section][field], f"{section}.{field}", cfg[section].norm)
        if cfg[section].eps and not cfg[section].step_size:
            raise ValueError(f"{section}.step_size is 0, with which no attack moves; it must be above 0")
    for eps in spec.items(own.curve):
        spec.unit(eps, "evaluation.curve", own.norm)
    if own.which not in ("latest", "best") and not own.which.isdecimal():
        raise ValueError(f"evaluation.which is {own.which!r}; it can be latest, best, or the number of a saved step")
    spec.budget(own.budget)
    for eps in spec.items(own.transfer.eps):
        spec.unit(eps, "evaluation.transfer.eps", own.norm)
    source, stages = own.transfer.source, stages_of(cfg)
    if source not in stages and not set(":/(") & set(source):
        known = f"a stage ({', '.join(stages)}), or of another work directory DIR/ or DIR:STAGE"
        raise ValueError(f"evaluation.transfer.source is {source!r}; it can be {known}")


def nearest(field: str, cfg: Any) -> str:
    """The error text for an unknown config field, with the nearest known ones."""
    known = list(flatten(cfg))
    near = difflib.get_close_matches(field, known, n=3)
    near = near or [k for k in known if k.split(".")[-1] == field.split(".")[-1]][:3]
    hint = f"nearest: {', '.join(near)}" if near else f"sections: {', '.join(sorted(cfg.keys()))}"
    return f"unknown config field {field!r}; {hint}"
