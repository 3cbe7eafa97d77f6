"""The base config, its checks, and the command line. Plain values only: no jax is imported here.

Every constant is either the paper's (C-LEAD, arXiv 2510.27249; its place is named) or, where the paper is silent, the
literature's, with its source. Radii and step sizes are strings in units of the [0, 1] pixel range ("8/255", "0.1");
lists are comma-separated strings ("clean,pgd,cw"); an item can carry settings of its own ("pgd(steps=10,eps=4/255)").
"""

import difflib
import json
import os
import runpy
from typing import Any

from ml_collections import ConfigDict

from clead_jax import values

TRAINED_STAGES = ("baseline", "supervised", "pretrain", "probe")
STAGES = (*TRAINED_STAGES, "evaluate", "report")
FILE_SOURCES = ("npz", "folder")  # data sets whose name holds a path
CHOICES = {
    "pretrain.ascend": ("contrastive", "online", "baseline"),
    "pretrain.start": ("scratch", "baseline"),
    "probe.start": ("latest", "best"),
    "evaluation.split": ("test", "validation", "train"),
    "evaluation.which": ("latest", "best"),
    "model.dtype": ("float32", "bfloat16"),
    "model.stem": ("cifar", "imagenet"),
    "defended": ("supervised", "probe"),
}


def base() -> ConfigDict:
    """The config every preset starts from: C-LEAD with a ResNet-18 on CIFAR-10, as the paper has it."""
    return ConfigDict(
        {
            "seed": 0,
            "stages": "baseline,pretrain,probe,evaluate,report",
            "defended": "probe",  # the stage whose model the report calls "with C-LEAD"
            "plugins": "",  # modules to import first: they register attacks, losses, backbones, data sets
            "data": {
                "name": "cifar10",  # digits, cifar10, cifar100, any prepared TFDS set, npz:FILE, folder:DIR
                "data_dir": "",  # where TFDS data lies; empty: the TFDS default
                "image_size": 0,  # resize to this many pixels a side; 0: as stored
                "validation": 0.1,  # share of train held out for every choice made during training
                "train_size": 0,  # class-balanced subset of train; 0: all
                "test_size": 0,
            },
            "augment": {
                "crop_padding": 4,
                "flip": True,
                "color_jitter": 0.0,
                "grayscale": 0.0,
            },  # Sec. 4: crop and flip
            "model": {
                "backbone": "resnet18",
                "width": 64,
                "stem": "cifar",
                "dtype": "float32",  # compute; parameters are float32 always
                "projection_dim": 128,  # Sec. 4
                "projection_hidden": 0,  # 0: as wide as the features (SimCLR, arXiv 2002.05709, Sec. 4.2)
            },
            # Eq. 2: an image with its PGD and its C&W version. Any registered attack, "clean" and "augmented".
            "views": "clean,pgd,cw",
            # The paper names neither norm, radius nor steps: Madry et al. (arXiv 1706.06083) and TRADES
            # (arXiv 1901.08573) for radius and step size, five steps and a random start as in RoCL-like pre-training.
            "train_attack": {"norm": "linf", "eps": "8/255", "step_size": "2/255", "steps": 5, "random_start": True},
            # The "without" column. 5e-4 and 0.1, cosine: the usual CIFAR recipe (after He et al., arXiv 1512.03385).
            "baseline": _training(epochs=100, batch_size=128, lr=0.1, weight_decay=5e-4) | {"attack": ""},
            # The control: PGD adversarial training (arXiv 1706.06083), the same step on attacked images.
            "supervised": _training(epochs=100, batch_size=128, lr=0.1, weight_decay=5e-4) | {"attack": "pgd"},
            "pretrain": _training(epochs=200, batch_size=512, lr=0.4, weight_decay=5e-4)  # Sec. 4: batch, SGD, lr
            | {
                "loss": "info_nce",
                "temperature": 0.1,  # Sec. 4
                "similarity": "cosine",  # or "euclidean" (negative distance)
                "pairing": "anchor",  # Eq. 2: clean against each perturbed view; "all": every pair of views
                "positives": "instance",  # or "class" (SupCon, arXiv 2004.11362)
                "weights": "",  # one per perturbed view under "anchor"; empty: equal, the 1/2 and 1/2 of Eq. 2
                "ascend": "contrastive",  # what the training attacks climb; unsaid: see README
                "start": "baseline",  # unsaid: see README
                "online_lr": 0.001,  # Adam, for the gradient-stopped online head
            },
            # Sec. 4: Adam, lr 1e-4, batch 128, backbone frozen.
            "probe": _training(epochs=100, batch_size=128, lr=1e-4, optimizer="adam", schedule="constant")
            | {
                "start": "latest",  # or "best" by validation
                "augment": True,  # the linear layer sees crops and flips, or the plain images; unsaid: see README
                "attack": "",
            },
            # Choices made during training look at this many validation images only, never at the test split.
            "validation": {"every": 10, "num_examples": 1000, "attack": "pgd(steps=10)"},
            "evaluation": {
                "attacks": "fgsm,pgd,cw",
                "norm": "linf",
                "eps": "8/255",
                "step_size": "2/255",
                "steps": 20,
                "restarts": 1,
                "split": "test",
                "num_examples": 0,  # 0: the whole split
                "which": "latest",  # checkpoint
                "batch_size": 256,
                "curve": "0,1/255,2/255,4/255,6/255,8/255,12/255,16/255,32/255,64/255",  # robust accuracy over eps
                "curve_examples": 1000,
                "distances": "",  # minimal-norm attacks to report distances of, e.g. "cw_l2"
                "distance_examples": 100,
            },
            "checkpoint": {"every": 5},  # epochs; the last is always kept
            "log": {"every": 50},  # steps between looks at the loss
        }
    )


def _training(
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float = 0.0,
    optimizer: str = "sgd",
    schedule: str = "cosine",
) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": 0.9,  # SGD only
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup_epochs": 0.0,
    }


# --- checks -----------------------------------------------------------------------------------------------------------


def validate(cfg: ConfigDict) -> None:
    """Raises ValueError, one line, for the first field whose value cannot be meant. Needs no jax and no data."""
    for stage in values.items(cfg.stages):
        if stage not in STAGES:
            raise ValueError(f"stages: unknown stage {stage!r}; known: {', '.join(STAGES)}")
    for field, known in CHOICES.items():
        if (value := _get(cfg, field)) not in known:
            raise ValueError(f"{field} is {value!r}; it can be {', '.join(known)}")
    for field in ("train_attack.eps", "evaluation.eps", "train_attack.step_size", "evaluation.step_size"):
        values.unit(_get(cfg, field), field, cfg[field.split(".")[0]].norm)
    for eps in values.items(cfg.evaluation.curve):
        values.unit(eps, "evaluation.curve", cfg.evaluation.norm)
    for stage in TRAINED_STAGES:
        _positive(cfg, f"{stage}.epochs", f"{stage}.batch_size", f"{stage}.lr")
    if not 0 <= cfg.seed < 2**32:
        raise ValueError(f"seed is {cfg.seed}; it lies in [0, 2**32)")
    for field in ("data.image_size", "data.train_size", "data.test_size", "evaluation.num_examples"):
        if _get(cfg, field) < 0:
            raise ValueError(f"{field} is {_get(cfg, field)}; it must not be negative")
    _positive(cfg, "evaluation.curve_examples", "evaluation.distance_examples")
    _positive(cfg, "model.width", "model.projection_dim", "pretrain.temperature", "pretrain.online_lr")
    _positive(cfg, "validation.every", "validation.num_examples", "checkpoint.every", "log.every")
    _positive(cfg, "train_attack.steps", "evaluation.steps", "evaluation.restarts", "evaluation.batch_size")
    if not 0 < cfg.data.validation < 1:
        raise ValueError(f"data.validation is {cfg.data.validation}; it is a share of train between 0 and 1")
    if not values.items(cfg.views):
        raise ValueError("views is empty; write for example clean,pgd,cw")
    if cfg.pretrain.pairing == "anchor" and values.items(cfg.views)[0] not in ("clean", "augmented"):
        raise ValueError(
            f"views is {cfg.views!r}; under pairing=anchor the first one is the anchor: clean or augmented"
        )
    if not values.items(cfg.evaluation.attacks):
        raise ValueError("evaluation.attacks is empty; write for example fgsm,pgd,cw")
    for field, value in flatten(cfg).items():
        if field.split(".")[-1] in ("momentum", "weight_decay", "warmup_epochs", "projection_hidden") and value < 0:
            raise ValueError(f"{field} is {value}; it must not be negative")


def _positive(cfg: ConfigDict, *fields: str) -> None:
    for field in fields:
        if not _get(cfg, field) > 0:
            raise ValueError(f"{field} is {_get(cfg, field)}; it must be above 0")


def _get(cfg: Any, field: str) -> Any:
    for part in field.split("."):
        cfg = cfg[part]
    return cfg


def preset(neighbour: str, name: str) -> ConfigDict:
    """The config of another file in the folder of `neighbour`, for presets that build on one another."""
    return runpy.run_path(os.path.join(os.path.dirname(neighbour), name))["get_config"]()


# --- what a stage's weights depend on ---------------------------------------------------------------------------------


def stage_fields(cfg: ConfigDict, stage: str) -> dict[str, Any]:
    """The fields that decide the weights of `stage`, flat: {'pretrain.epochs': 200, ...}. Changing one is refused."""
    parts = {"seed", "data", "augment", "model", "validation", stage}
    if stage == "pretrain":
        parts |= {"views", "train_attack"}
        if "baseline" in (cfg.pretrain.start, cfg.pretrain.ascend):
            parts |= {"baseline"}
    if stage in ("baseline", "supervised") and cfg[stage].attack:
        parts |= {"train_attack"}
    free = ("data.data_dir", "data.test_size")
    fields = {k: v for k, v in flatten(cfg).items() if k.split(".")[0] in parts and k not in free}
    return (stage_fields(cfg, "pretrain") if stage == "probe" else {}) | fields


def flatten(cfg: Any, prefix: str = "") -> dict[str, Any]:
    """Nested config -> {'a.b': value}."""
    flat: dict[str, Any] = {}
    for key, value in cfg.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def changed(old: dict[str, Any], new: dict[str, Any]) -> str:
    """'a.b: 1 -> 2, ...' for the fields that differ; empty if none does."""
    return ", ".join(
        f"{k}: {old.get(k, 'absent')} -> {new.get(k, 'absent')}"
        for k in sorted(old.keys() | new.keys())
        if old.get(k) != new.get(k)
    )


# --- files ------------------------------------------------------------------------------------------------------------


def save(cfg: ConfigDict, workdir: str, name: str, command: str = "") -> None:
    """Writes `config.json` without paths of this machine: data_dir is dropped, files are relative to the workdir."""
    plain = json.loads(cfg.to_json())
    plain["data"] |= {"data_dir": "", "name": _relative(cfg.data.name, workdir)}
    path = os.path.join(workdir, "config.json")
    with open(path + ".part", "w") as f:
        json.dump({"name": name, "command": command, "config": plain}, f, indent=1)
    os.replace(path + ".part", path)


def restore(workdir: str) -> tuple[ConfigDict, str]:
    """`config.json` of a work directory -> (config, name). Raises ValueError if there is none that can be read."""
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        raise ValueError(f"{workdir} is no work directory: it has no config.json")
    cfg = base()
    try:
        with open(path) as f:
            saved = json.load(f)
        cfg.update(saved["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); the training command writes a new one") from None
    kind, _, file = cfg.data.name.partition(":")
    if kind in FILE_SOURCES:
        cfg.data.name = f"{kind}:{os.path.normpath(os.path.join(workdir, file))}"
    return cfg, saved["name"]


def saved_command(workdir: str) -> str:
    """The command that trained a work directory, '' if that is not known."""
    path = os.path.join(workdir, "config.json")
    if not os.path.exists(path):
        return ""
    with open(path) as f:
        return json.load(f).get("command", "")


def portable(fields: dict[str, Any], workdir: str) -> dict[str, Any]:
    """Flat fields with the user's own data file named relative to the work directory, as `save` does."""
    return {**fields, "data.name": _relative(fields["data.name"], workdir)}


def _relative(data_name: str, workdir: str) -> str:
    kind, _, path = data_name.partition(":")
    return f"{kind}:{os.path.relpath(path, workdir)}" if kind in FILE_SOURCES else data_name


def nearest(field: str, cfg: ConfigDict) -> str:
    """The error text for an unknown config field, with the nearest known ones."""
    known = list(flatten(cfg))
    near = difflib.get_close_matches(field, known, n=3)
    near = near or [k for k in known if k.split(".")[-1] == field.split(".")[-1]][:3]
    hint = f"nearest: {', '.join(near)}" if near else f"sections: {', '.join(sorted(cfg.keys()))}"
    return f"unknown config field {field!r}; {hint}"
