"""The config's file in a work directory, and which of its fields decide the weights of a stage."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clead_jax.config.schema import FILE_SOURCES, KINDS, Config, Contrastive, Joint, base, stages_of
from clead_jax.config.sections import flatten, nested
from clead_jax.config.upstream import needed
from clead_jax.config.validate import validate
from clead_jax.core import spec

DATA_SETS = ("name", "extra")  # fields of `data` that may hold a path


def stage_fields(cfg: Config, stage: str) -> dict[str, Any]:
    """The fields that decide the weights of `stage`, flat: {'pretrain.epochs': 200, ...}. Changing one is refused."""
    own, parts = cfg[stage], {"seed", "data", "augment", "model", "validation", stage}
    if isinstance(own, Contrastive | Joint):
        parts |= {"views", "train_attack"}
    elif own.attack or own.views:
        parts |= {"train_attack"}
    free = ["data.data_dir", "data.test_size", "data.resident_limit"]
    if not isinstance(own, Contrastive):
        free += ["data.extra", "data.extra_share"]
    fields = {k: v for k, v in flatten(cfg).items() if k.split(".")[0] in parts and k not in free}
    before: dict[str, Any] = {}
    for source in needed(cfg, stage):
        before |= stage_fields(cfg, source)
    return before | fields


def fields_then(saved: dict[str, Any], cfg: Config, stage: str) -> dict[str, Any]:
    """`stage_fields` of a checkpoint from those saved with it, perhaps by an earlier version. `cfg` tells the kinds."""
    tree: dict[str, Any] = {name: {"kind": own.kind} for name, own in stages_of(cfg).items()}
    for name, value in saved.items():
        *sections, last = name.split(".")
        here = tree
        for section in sections:
            here = here.setdefault(section, {})
        here[last] = value
    try:
        return portable(stage_fields(from_json(tree), stage))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"a checkpoint of {stage} was trained with fields that no config has ({error})") from None


def save(cfg: Config, workdir: str, name: str, command: str = "", fingerprint: str = "") -> None:
    """Writes `config.json` without paths of this machine: of the data, their name and the `fingerprint` of the train
    split are kept.
    """
    plain, path = as_json(cfg), Path(workdir) / "config.json"
    plain["data"] |= {"data_dir": ""} | {field: _without_path(cfg.data[field]) for field in DATA_SETS}
    own = plain["evaluation"]["transfer"]
    own["source"] = _elsewhere(own["source"], lambda source: os.path.relpath(source, workdir))
    saved = {"name": name, "command": command, "train_fingerprint": fingerprint, "config": plain}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(saved, indent=1), encoding="utf-8")
    os.replace(part, path)


def restore(workdir: str) -> tuple[Config, str]:
    """`config.json` of a work directory -> (config, name). Raises ValueError if there is none that can be meant.

    A data file is looked for in the work directory and in the folder that it lies in; see `data.located` for others.
    """
    saved = _read(workdir, lambda saved: (_checked(from_json(saved["config"])), str(saved["name"])))
    if saved is None:
        raise ValueError(f"{workdir} is no work directory: it has no config.json")
    cfg, name = saved
    own = cfg.evaluation.transfer
    own.source = _elsewhere(own.source, lambda source: os.path.normpath(os.path.join(workdir, source)))
    for field in DATA_SETS:
        kind, _, file = cfg.data[field].partition(":")
        if kind in FILE_SOURCES:
            inside, beside = (os.path.normpath(os.path.join(workdir, up, file)) for up in (".", ".."))
            cfg.data[field] = f"{kind}:{beside if os.path.exists(beside) and not os.path.exists(inside) else inside}"
    return cfg, name


def _elsewhere(source: str, change: Callable[[str], str]) -> str:
    """A transfer source with its work directory changed; a stage of the run, or a wrapper, stays as it is."""
    directory, colon, stage = source.partition(":")
    if "(" in source or not (colon or "/" in source):
        return source
    return f"{change(directory)}:{stage or 'baseline'}"


def _checked(cfg: Config) -> Config:
    validate(cfg)
    return cfg


def saved_command(workdir: str) -> str:
    """The command that trained a work directory, '' if that is not known."""
    return _read(workdir, lambda saved: str(saved.get("command", ""))) or ""


def saved_fingerprint(workdir: str) -> str:
    """The fingerprint of the train split that a work directory was trained on, '' if that is not known."""
    return _read(workdir, lambda saved: str(saved.get("train_fingerprint", ""))) or ""


def _read(workdir: str, take: Callable[[dict[str, Any]], Any]) -> Any:
    """`take` of what config.json holds; None if there is no such file."""
    path = Path(workdir) / "config.json"
    try:
        return take(dict(json.loads(path.read_text(encoding="utf-8")))) if path.exists() else None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({spec.visible(str(error))}); the training command writes a new one"
        ) from None


def portable(fields: dict[str, Any]) -> dict[str, Any]:
    """Flat fields with the user's own data by their name, without the path, as `save` does."""
    named = {name: fields[name] for name in (f"data.{field}" for field in DATA_SETS) if name in fields}
    return fields | {name: _without_path(text) for name, text in named.items()}


def _without_path(data_name: str) -> str:
    kind, _, path = data_name.partition(":")
    return f"{kind}:{os.path.basename(os.path.abspath(path))}" if kind in FILE_SOURCES else data_name


def as_json(cfg: Config) -> dict[str, Any]:
    """Plain nested values; a stage carries its kind."""
    return nested(cfg) | {name: {"kind": stage.kind, **nested(stage)} for name, stage in stages_of(cfg).items()}


def from_json(saved: dict[str, Any]) -> Config:
    """The config of `as_json`, also one of an earlier version: what it lacks is as by default.

    Raises ValueError, TypeError, AttributeError or KeyError for what is no such config.
    """
    cfg = base()
    for name, value in saved.items():
        if not isinstance(value, dict):
            cfg[name] = value
            continue
        if name not in cfg and "kind" in value:
            cfg[name] = KINDS[value["kind"]]()
        getattr(cfg, name).update({field: value[field] for field in value if field != "kind"})
    return cfg
