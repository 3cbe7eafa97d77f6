"""A run as its stages share it: config, data, network, mesh, compiled programs. Opening one writes nothing."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clead_jax import config, data
from clead_jax.config import Config
from clead_jax.core import cluster, numerics, sharding, spec
from clead_jax.core.batches import rounded_up
from clead_jax.core.rows import joined
from clead_jax.core.types import Classifier, Examples, Key, NamedAttack, PyTree, fingerprint
from clead_jax.evaluation import corruptions
from clead_jax.evaluation.classifier import Compiled, compiled
from clead_jax.evaluation.plan import Plan
from clead_jax.evaluation.runner import run_attacks
from clead_jax.experiment import builders, changes, networks, planning, stages
from clead_jax.experiment.builders import Splits
from clead_jax.experiment.stages import Stage
from clead_jax.results import lock
from clead_jax.training.views import Attack


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
    classifier: Classifier  # of this network, without weights
    seed: int
    epochs: dict[str, int]  # of every stage's training
    asked: tuple[str, ...]  # what `config.stages` names, "evaluate" and "report" too
    defended: str  # the stage whose model the report calls "with C-LEAD"
    which: tuple[str, str]  # the checkpoint to be evaluated, and the name of its weights

    @functools.cached_property
    def stages(self) -> dict[str, Stage]:
        """The stages to be trained, in their order."""
        return {name: self._built(name) for name in config.trained_stages(self.cfg)}

    @functools.cached_property
    def every_stage(self) -> dict[str, Stage]:
        """All stages that the config describes, whether they are to be trained or not."""
        return {name: self._built(name) for name in config.stages_of(self.cfg)}

    @functools.cached_property
    def extra(self) -> np.ndarray:
        """Images beside the training split, uint8 [M, H, W, C]; none, and nothing is read, where no stage uses them."""
        shape = self.dataset.image_shape
        if not any(stages.extra_per_batch(self.cfg, name) for name in config.trained_stages(self.cfg)):
            return np.zeros((0, *shape), np.uint8)
        return sharding.main_first(lambda: builders.extra_images(self.cfg, shape))

    @property
    def extra_name(self) -> str:
        """What the extra data are called, without their path."""
        return config.portable({"data.extra": self.cfg.data.extra})["data.extra"]

    def examples_of(self, stage: Stage) -> tuple[np.ndarray, np.ndarray]:
        """(images uint8 [N, H, W, C], labels int32 [N]) of a stage: those to train on, behind them the extra ones where
        its batches hold any. A label that is not known is below 0, another for every image.
        """
        train, more = self.splits.train, self.extra if stage.plan.extra_per_batch else self.extra[:0]
        images = joined(train.images, more) if len(more) else train.images
        labels = np.concatenate([train.labels, np.full(len(more), -1)])
        return images, np.where(labels < 0, -1 - np.arange(len(labels)), labels).astype(np.int32)

    def streams(self, stage: Stage) -> bool:
        """Whether the images of a stage, with its static views, are more than the devices are to hold.

        Raises ValueError where they are and the stage draws neighbours, which needs all images on the devices.
        """
        count, limit = len(self.splits.train.labels), self.cfg.data.resident_limit
        count += len(self.extra) if stage.plan.extra_per_batch else 0
        size = count * math.prod(self.dataset.image_shape) * (1 + len(stage.stored))
        if size > limit and stage.neighbours:
            raise ValueError(
                f"{stage.name}.neighbours is {stage.neighbours[0]!r}: neighbours are drawn among all images on the "
                f"devices, but these are {size:,} bytes and data.resident_limit is {limit:,}; raise it"
            )
        return size > limit

    def _built(self, name: str) -> Stage:
        count, shape = len(self.splits.train.labels), self.dataset.image_shape
        return stages.build(self.cfg, name, self.network, count, shape, len(self.extra), self.mesh)

    def meta(self, stage: Stage) -> dict[str, Any]:
        """What every checkpoint of a stage says of its network and of the config, without paths of this machine."""
        data = {"image_shape": list(self.dataset.image_shape), "train_fingerprint": self.dataset.fingerprints["train"]}
        own = {"stage": stage.name, "fields": config.portable(stage.fields)}
        beside = {"extra_fingerprint": fingerprint(self.extra)} if stage.plan.extra_per_batch else {}
        return {"network": self.network_fields, **data, **own, **beside}

    def fresh(self, key: Key) -> PyTree:
        """New variables of the network."""
        return self.network.init(key, np.zeros((1, *self.dataset.image_shape), np.float32), False)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps every other process out of the work directory. ValueError, one line, if there is one, and where the
        processes of this run differ in config or data, or do not share the directory.
        """
        with lock.held(self.workdir) if sharding.is_main() else contextlib.nullcontext():
            if jax.process_count() > 1:
                fields = {k: v for k, v in config.flatten(self.cfg).items() if k != "data.data_dir"}
                test, train = self.dataset.test, (self.dataset.train_images, self.dataset.train_labels)
                arrays = (*train, test.images, test.labels)
                digests = list(map(fingerprint, arrays))
                cluster.agree(fields | {"the data": digests, "jax": jax.__version__}, Path(self.workdir, lock.NAME))
            yield

    def save_config(self, command: str) -> None:
        """Writes config.json; `command` is that of the last run that trained something."""
        command = command if self.stages else config.saved_command(self.workdir)
        config.save(self.cfg, self.workdir, self.name, command, self.dataset.fingerprints["train"])

    def check_batches(self) -> None:
        """Raises ValueError for a stage whose batches cannot be."""
        for name in self.stages:
            labels, classes = self.splits.train.labels, self.network.num_classes
            stages.check_batch(self.cfg, name, labels, classes, self.mesh.size)
            changes.refuse_other_extra(self.workdir, name, self.extra, self.extra_name)
            self.streams(self.stages[name])
        if "evaluate" in self.asked:
            self.require_labels()

    def require_labels(self) -> None:
        """Raises ValueError where there are no labels to evaluate with."""
        if not self.dataset.num_classes:
            raise ValueError(f"{self.dataset.name} has no labels, which evaluate needs; stages=pretrain trains without")

    def validate(self, variables: PyTree, held: Examples, attack: NamedAttack) -> dict[str, float]:
        """Clean and robust accuracy of the classifier on held-out images; in phase 1 that is the online head."""
        model = self.compiled(dataclasses.replace(self.classifier, variables=variables))
        key, classes = numerics.key(self.seed), self.network.num_classes
        predicted = model.predict(held.images, key)
        if (predicted < 0).any():
            raise FloatingPointError("the model gives non-finite outputs")
        clean = predicted == held.labels
        found = run_attacks(model, held, [attack], key=key, num_classes=classes, clean=clean, strict=True)
        return {"val_clean": float(clean.mean()), "val_robust": float(found.correct.mean())}

    def compiled(self, classifier: Classifier) -> Compiled:
        """A classifier in the batches of the evaluation."""
        classifier = dataclasses.replace(classifier, image_shape=self.dataset.image_shape)
        return compiled(classifier, self.mesh, self.eval_batch)

    @property
    def eval_batch(self) -> int:
        """How many images the evaluation treats at a time, a multiple of the devices."""
        batch = min(self.cfg.evaluation.batch_size or 256, len(self.splits.test.labels))
        return rounded_up(batch, self.mesh.size)

    @property
    def timed_settings(self) -> dict[str, Any]:
        """The settings that decide what is timed, for the record."""
        sections = {name: config.nested(self.cfg[name]) for name in ("model", "train_attack", "evaluation")}
        return {**sections, "views": self.cfg.views}

    @property
    def training_pgd(self) -> Attack:
        """PGD as it is used in training."""
        return builders.training_attack(self.cfg, "pgd")

    @property
    def plan(self) -> Plan:
        """What is to be measured."""
        return planning.evaluation_plan(self.cfg, self.dataset, self.trained_on)

    @property
    def trained_on(self) -> set[str]:
        """Names of the views and attacks that the defended model was trained on."""
        return stages.trained_on(self.cfg, self.cfg.defended)

    @property
    def asks_beyond_transfer(self) -> bool:
        """Whether anything but transfer attacks is to be measured."""
        return spec.items(self.cfg.evaluation.protocol) != ("paper",) or self.plan.suite is not None

    def examples(self) -> Examples:
        """The images to be evaluated."""
        wanted, split = self.cfg.evaluation.num_examples, getattr(self.splits, self.cfg.evaluation.split)
        return data.in_memory(data.subset(split, wanted) if 0 < wanted < len(split.labels) else split)

    def header(self, examples: Examples) -> dict[str, Any]:
        """What results.json says of images and threat model."""
        own = self.cfg.evaluation
        return {
            "dataset": {
                "name": self.dataset.name,
                "split": own.split,
                "num_examples": len(examples.labels),
                "num_classes": self.dataset.num_classes,
                "class_names": list(self.dataset.class_names),
            },
            "threat_model": {"norm": own.norm, "eps": own.eps},
        }


@numerics.defaults()
def open_run(cfg: Config, workdir: str, name: str, find_data: bool = False) -> Run:
    """Reads the data, makes network and mesh. Writes nothing in `workdir`.

    `find_data`: a user's own data that are not where the config says are those last read under that name here.
    Raises ValueError for data that cannot be read, or that do not fit the stages `workdir` holds.
    """
    own = cfg.data.name.partition(":")[0] in config.io.FILE_SOURCES
    if own and find_data:
        cfg.data.name = data.located(cfg.data.name, config.io.saved_fingerprint(workdir))
    dataset = sharding.main_first(lambda: builders.dataset(cfg))
    splits = builders.splits(cfg, dataset)
    fields = builders.network_fields(cfg, dataset, splits.train)
    changes.refuse_other_data(cfg, dataset, fields, workdir)
    if own:
        data.remember(cfg.data.name, dataset)
    return _run(cfg, workdir, name, dataset, splits, fields)


def _run(
    cfg: Config,
    workdir: str,
    name: str,
    dataset: data.Dataset,
    splits: Splits,
    fields: dict[str, Any],
    mesh: jax.sharding.Mesh | None = None,
) -> Run:
    _check_images(cfg, dataset)
    return Run(
        cfg,
        workdir,
        name,
        mesh or sharding.data_mesh(),
        dataset,
        splits,
        network_fields=fields,
        network=builders.network(fields),
        classifier=networks.classifier(fields),
        seed=cfg.seed,
        epochs={name: stage.epochs for name, stage in config.stages_of(cfg).items()},
        asked=spec.items(cfg.stages),
        defended=cfg.defended,
        which=(cfg.evaluation.which, cfg.evaluation.weights),
    )


def _check_images(cfg: Config, dataset: data.Dataset) -> None:
    """Raises ValueError for what cannot be done with images of this shape."""
    stages.check_radii(cfg, math.prod(dataset.image_shape))
    if cfg.evaluation.corruptions:
        corruptions.check(dataset.image_shape)


def under(run: Run, cfg: Config) -> Run:
    """The same run with a config that differs in `evaluation` alone. Raises ValueError for a radius beyond its cube."""
    _check_images(cfg, run.dataset)
    return dataclasses.replace(run, cfg=cfg)


@numerics.defaults()
def open_random(cfg: Config, batch_size: int = 0, mesh: jax.sharding.Mesh | None = None) -> Run:
    """A run on random images, enough for one batch of every stage; batch sizes become `batch_size` if that is above 0,
    and multiples of the devices. Raises ValueError for a config that cannot run.

    On a `mesh` that is only compiled for batches stay as they are: one that its devices cannot share is refused.
    """
    cfg.data.extra = ""
    stages.check(cfg)
    devices = 1 if mesh else sharding.data_mesh().size
    sections: list[Any] = [*config.stages_of(cfg).values(), cfg.evaluation]
    for section in sections:
        section.batch_size = rounded_up(batch_size or section.batch_size or 256, devices)
    dataset = builders.random_dataset(cfg, max(section.batch_size for section in sections))
    everything = Examples(dataset.train_images, dataset.train_labels, dataset.test.index)
    fields = builders.network_fields(cfg, dataset, everything)
    run = _run(cfg, "", "", dataset, Splits(everything, everything, everything), fields, mesh)
    for name in config.stages_of(cfg) if mesh else ():
        stages.check_batch(cfg, name, everything.labels, run.network.num_classes, run.mesh.size)
    return run
