"""What a config may say, which stages depend on what, and its file. The fields themselves are in `defaults`.

Plain values only: no jax is imported here.
"""

import difflib
import json
import os
import runpy
from typing import Any

from ml_collections import ConfigDict

from clead_jax.config.schema import base
from clead_jax.core import spec

TRAINED_STAGES = ("baseline", "supervised", "pretrain", "probe", "joint")  # a stage is keyed by its place: append
STAGES = (*TRAINED_STAGES, "evaluate", "report")
PROTOCOLS = ("paper", "whitebox", "autoattack")
FILE_SOURCES = ("npz", "folder")  # data sets whose name holds a path
CHOICES = {
    "pretrain.ascend": ("contrastive", "online", "baseline"),
    "pretrain.start": ("scratch", "baseline"),
    "joint.ascend": ("contrastive", "online", "baseline"),
    "joint.start": ("scratch", "baseline"),
    "probe.start": ("latest", "best"),
    "evaluation.split": ("test", "validation", "train"),
    "evaluation.version": ("standard", "plus", "rand"),
    "evaluation.precision": ("float32", "bfloat16"),
    "model.dtype": ("float32", "bfloat16"),
    "model.stem": ("cifar", "imagenet"),
    "defended": ("supervised", "probe", "joint"),
}


# --- checks -----------------------------------------------------------------------------------------------------------


def validate(cfg: ConfigDict) -> None:
    """Raises ValueError, one line, for the first field whose value cannot be meant. Needs no jax and no data."""
    for stage in spec.items(cfg.stages):
        if stage not in STAGES:
            raise ValueError(f"stages: unknown stage {stage!r}; known: {', '.join(STAGES)}")
    for field, known in CHOICES.items():
        if (value := _get(cfg, field)) not in known:
            raise ValueError(f"{field} is {value!r}; it can be {', '.join(known)}")
    if cfg.data.name.partition(":")[0::2] in [(source, "") for source in FILE_SOURCES]:
        raise ValueError(f"data.name is {cfg.data.name!r}; it lacks the path: npz:FILE or folder:DIR")
    if (which := cfg.evaluation.which) not in ("latest", "best") and not which.isdecimal():
        raise ValueError(f"evaluation.which is {which!r}; it can be latest, best, or the number of a saved step")
    for field in ("train_attack.eps", "evaluation.eps", "train_attack.step_size", "evaluation.step_size"):
        spec.unit(_get(cfg, field), field, cfg[field.split(".")[0]].norm)
    for eps in spec.items(cfg.evaluation.curve):
        spec.unit(eps, "evaluation.curve", cfg.evaluation.norm)
    for stage in TRAINED_STAGES:
        _positive(cfg, f"{stage}.epochs", f"{stage}.batch_size", f"{stage}.lr")
    if not 0 <= cfg.seed < 2**32:
        raise ValueError(f"seed is {cfg.seed}; it lies in [0, 2**32)")
    for field in (
        "data.image_size",
        "data.train_size",
        "data.test_size",
        "evaluation.num_examples",
        "evaluation.batch_size",
    ):
        if _get(cfg, field) < 0:
            raise ValueError(f"{field} is {_get(cfg, field)}; it must not be negative")
    _positive(cfg, "evaluation.curve_examples", "evaluation.distance_examples")
    _positive(cfg, "model.width", "model.projection_dim", "pretrain.temperature", "pretrain.online_lr")
    _positive(cfg, "joint.temperature", "validation.every", "validation.num_examples", "checkpoint.every", "log.every")
    _positive(cfg, "train_attack.steps", "evaluation.steps", "evaluation.restarts")
    if not 0 < cfg.data.validation < 1:
        raise ValueError(f"data.validation is {cfg.data.validation}; it is a share of train between 0 and 1")
    if not spec.items(cfg.views):
        raise ValueError("views is empty; write for example clean,pgd,cw")
    anchored = "pretrain" in spec.items(cfg.stages) and cfg.pretrain.pairing == "anchor"
    if anchored and spec.items(cfg.views)[0] not in ("clean", "augmented"):
        raise ValueError(
            f"views is {cfg.views!r}; under pairing=anchor the first one is the anchor: clean or augmented"
        )
    for protocol in (asked := spec.items(cfg.evaluation.protocol)):
        if protocol not in PROTOCOLS:
            raise ValueError(f"evaluation.protocol: unknown protocol {protocol!r}; known: {', '.join(PROTOCOLS)}")
    if not asked:
        raise ValueError(f"evaluation.protocol is empty; write some of {', '.join(PROTOCOLS)}")
    spec.budget(cfg.evaluation.budget)
    if not spec.items(cfg.evaluation.attacks):
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


def preset(neighbour: str, name: str, *arguments: Any) -> ConfigDict:
    """The config of another file in the folder of `neighbour`, for presets that build on one another."""
    return runpy.run_path(os.path.join(os.path.dirname(neighbour), name))["get_config"](*arguments)


# --- what a stage's weights depend on ---------------------------------------------------------------------------------


def stage_fields(cfg: ConfigDict, stage: str) -> dict[str, Any]:
    """The fields that decide the weights of `stage`, flat: {'pretrain.epochs': 200, ...}. Changing one is refused."""
    parts = {"seed", "data", "augment", "model", "validation", stage}
    if stage in ("pretrain", "joint"):
        parts |= {"views", "train_attack"}
        if "baseline" in (cfg[stage].start, cfg[stage].ascend):
            parts |= {"baseline"}
    if cfg[stage].get("attack"):
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
