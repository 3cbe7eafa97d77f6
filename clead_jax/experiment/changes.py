"""Refuses a work directory that holds stages trained with another config, or on other data. Raises ValueError."""

from typing import Any

import numpy as np

from clead_jax import config, data
from clead_jax.config import Config
from clead_jax.core.types import fingerprint
from clead_jax.experiment import builders


def refuse_other_data(cfg: Config, dataset: data.Dataset, fields: dict[str, Any], workdir: str) -> None:
    """Files can be replaced under their old name: other images or labels to train on, another shape, other classes."""
    now = {"image_shape": list(dataset.image_shape), **fields, "train split": dataset.fingerprints["train"]}
    for stage in config.stages_of(cfg):
        if meta := builders.latest_meta(workdir, stage):
            before = {"image_shape": meta["image_shape"], **config.base().model, **meta["network"]}
            before["train split"] = meta.get("train_fingerprint", now["train split"])  # an earlier version had none
            if differing := config.changed(before, now):
                remedy = "use the same data, or another --workdir"
                changed = f"{dataset.name} has changed since {workdir} trained its {stage} stage"
                raise ValueError(f"{changed}: {differing}; {remedy}")


def refuse_changes(cfg: Config, workdir: str) -> None:
    """Raises ValueError if a stage was started with other values of the fields its weights depend on."""
    for stage in config.stages_of(cfg):
        directory = builders.checkpoint_dir(workdir, stage)
        if not (meta := builders.latest_meta(workdir, stage)):
            continue
        now = config.portable(config.stage_fields(cfg, stage))
        if differing := config.changed(config.fields_then(meta["fields"], cfg, stage), now):
            raise ValueError(
                f"{workdir} holds a {stage} stage with other values ({differing}); "
                f"use another --workdir, or delete {directory}"
            )


def refuse_other_extra(workdir: str, stage: str, extra: np.ndarray, name: str) -> None:
    """The same for images beside those of the data set, of which a stage has seen some."""
    meta = builders.latest_meta(workdir, stage) or {}
    if "extra_fingerprint" in meta and meta["extra_fingerprint"] != fingerprint(extra):
        changed = f"{name} has changed since {workdir} trained its {stage} stage"
        raise ValueError(f"{changed}; use the same images, or another --workdir")
