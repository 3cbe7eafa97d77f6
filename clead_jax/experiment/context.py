"""A run as its stages share it: config, data, network, mesh, compiled programs. Opening one writes nothing."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from clead_jax import config, data
from clead_jax.config import Config
from clead_jax.core import sharding, spec
from clead_jax.core.batches import rounded_up
from clead_jax.core.types import Examples, NamedAttack, PyTree
from clead_jax.evaluation.verify import Evaluator
from clead_jax.experiment import builders, stages
from clead_jax.experiment.builders import Splits
from clead_jax.experiment.stages import Stage
from clead_jax.training import checkpoint


@dataclasses.dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    cfg: Config
    workdir: str
    name: str
    mesh: jax.sharding.Mesh
    dataset: data.Dataset
    splits: Splits
    network_fields: dict[str, Any]
    network: Any
    evaluator: Evaluator
    features: Callable[[PyTree, np.ndarray], jax.Array]  # (variables, x [B, H, W, C] in [0, 1]) -> [B, F]

    @property
    def seed(self) -> int:
        """The seed of all randomness."""
        return self.cfg.seed

    @property
    def epochs(self) -> dict[str, int]:
        """Stage -> epochs of its training."""
        return {name: stage.epochs for name, stage in config.stages_of(self.cfg).items()}

    @functools.cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages to be trained, in their order."""
        size = len(self.splits.train.labels)
        return {n: stages.build(self.cfg, n, self.network, size) for n in config.trained_stages(self.cfg)}

    @property
    def asked(self) -> tuple[str, ...]:
        """What `config.stages` names, "evaluate" and "report" too."""
        return spec.items(self.cfg.stages)

    @property
    def evaluation_work(self) -> list[tuple[int, NamedAttack]]:
        """(images, attack) of all that an evaluation of one model runs at most."""
        own = self.cfg.evaluation
        images = own.num_examples or len(getattr(self.splits, own.split).labels)
        return builders.evaluation_work(self.cfg, images, self.dataset.num_classes)

    @property
    def meta(self) -> dict[str, Any]:
        """What every checkpoint says of its network."""
        return {"network": self.network_fields, "image_shape": list(self.dataset.image_shape)}

    def check_batches(self) -> None:
        """Raises ValueError for a stage whose batches cannot be."""
        for name in self.stages:
            labels, classes = self.splits.train.labels, self.network.num_classes
            stages.check_batch(self.cfg, name, labels, classes, self.mesh.size)

    def portable(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Config fields without paths of this machine."""
        return config.portable(fields, self.workdir)

    def validate(self, variables: PyTree, held: Examples, attack: NamedAttack) -> dict[str, float]:
        """Clean and robust accuracy of the classifier on held-out images; in phase 1 that is the online head."""
        clean = self.evaluator.predict(variables, held.images) == held.labels
        key = jax.random.key(self.seed)
        outcome = self.evaluator.attack(variables, held.images, held.labels, attack, key=key, index=held.index)
        return {"val_clean": float(clean.mean()), "val_robust": float(outcome.correct.mean())}


def open_run(cfg: Config, workdir: str, name: str) -> Run:
    """Reads the data, makes network, mesh and programs. Writes nothing.

    Raises ValueError for data that cannot be read, or that do not fit the stages `workdir` holds.
    """
    dataset = sharding.main_first(lambda: builders.dataset(cfg))
    splits = builders.splits(cfg, dataset)
    fields = builders.network_fields(cfg, dataset, splits.train)
    _refuse_other_data(cfg, dataset, fields, workdir)
    net, mesh = builders.network(fields), sharding.data_mesh()
    batch = min(cfg.evaluation.batch_size or 256, len(splits.test.labels))
    evaluator = Evaluator(
        builders.forward(net),
        batch_size=rounded_up(batch, mesh.size),
        place=lambda x: sharding.put(x, sharding.split(mesh)),
        fetch=sharding.to_host,
    )
    features = jax.jit(lambda variables, x: net.apply(variables, x, False, method=net.features))
    return Run(cfg, workdir, name, mesh, dataset, splits, fields, net, evaluator, features)


def _refuse_other_data(cfg: Config, dataset: data.Dataset, fields: dict[str, Any], workdir: str) -> None:
    """Files can be replaced under their old name: another shape, other classes, other pixel statistics."""
    now = {"image_shape": list(dataset.image_shape), **fields}
    for stage in config.stages_of(cfg):
        if meta := checkpoint.latest_meta(builders.checkpoint_dir(workdir, stage)):
            before = {"image_shape": meta["image_shape"], **meta["network"]}
            if differing := config.changed(before, now):
                raise ValueError(f"{dataset.name} has changed since {workdir} trained its {stage} stage: {differing}")


def refuse_changes(cfg: Config, workdir: str) -> None:
    """Raises ValueError if a stage was started with other values of the fields its weights depend on."""
    for stage in config.stages_of(cfg):
        directory = builders.checkpoint_dir(workdir, stage)
        if not (meta := checkpoint.latest_meta(directory)):
            continue
        now = config.portable(config.stage_fields(cfg, stage), workdir)
        if differing := config.changed(config.fields_then(meta["fields"], cfg, stage), now):
            raise ValueError(
                f"{workdir} holds a {stage} stage with other values ({differing}); "
                f"use another --workdir, or delete {directory}"
            )
