"""A run as its stages share it: config, data, network, mesh, evaluator. Opening one writes nothing."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax import config, data
from clead_jax.core import sharding
from clead_jax.core.types import PyTree
from clead_jax.evaluation.verify import Evaluator
from clead_jax.experiment import builders as build
from clead_jax.training import checkpoint


class Run(NamedTuple):
    """What all stages of a run share."""

    cfg: Any
    workdir: str
    name: str
    mesh: jax.sharding.Mesh
    dataset: data.Dataset
    splits: build.Splits
    network_fields: dict[str, Any]
    network: Any
    evaluator: Evaluator
    features: Callable[[PyTree, np.ndarray], jax.Array]  # (variables, x [B, H, W, C] in [0, 1]) -> [B, F]


def open_run(cfg: Any, workdir: str, name: str) -> Run:
    """Reads the data, makes network, mesh and evaluator. Writes nothing.

    Raises ValueError for data that cannot be read, or that do not fit the stages `workdir` holds.
    """
    dataset = sharding.main_first(lambda: build.dataset(cfg))
    splits = build.splits(cfg, dataset)
    fields = build.network_fields(cfg, dataset, splits.train)
    _refuse_other_data(dataset, fields, workdir)
    net, mesh = build.network(fields), sharding.data_mesh()
    batch = min(cfg.evaluation.batch_size or 256, len(splits.test.labels))
    evaluator = Evaluator(
        build.forward(net),
        batch_size=build.rounded_up(batch, mesh.size),
        place=lambda x: sharding.put(x, sharding.split(mesh)),
        fetch=sharding.to_host,
    )
    features = jax.jit(lambda variables, x: net.apply(variables, x, False, method=net.features))
    return Run(cfg, workdir, name, mesh, dataset, splits, fields, net, evaluator, features)


def _refuse_other_data(dataset: data.Dataset, fields: dict[str, Any], workdir: str) -> None:
    """Files can be replaced under their old name: another shape, other classes, other pixel statistics."""
    now = {"image_shape": list(dataset.image_shape), **fields}
    for stage in config.TRAINED_STAGES:
        if meta := checkpoint.latest_meta(build.checkpoint_dir(workdir, stage)):
            before = {"image_shape": meta["image_shape"], **meta["network"]}
            if differing := config.changed(before, now):
                raise ValueError(f"{dataset.name} has changed since {workdir} trained its {stage} stage: {differing}")
