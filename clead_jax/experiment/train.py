"""A run: the stages of a config, one after the other, in one work directory.

WORKDIR/config.json            the config of the last start, without paths of this machine
WORKDIR/checkpoints/<stage>/   see `checkpoint`; a stage is finished when its last step is there
WORKDIR/metrics.jsonl          one line per stage and epoch
WORKDIR/evaluation/, report/   see `evaluate` and `report`
"""

import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clead_jax import config, data
from clead_jax.attacks import parse as arsenal
from clead_jax.core import sharding, spec
from clead_jax.core.types import PyTree
from clead_jax.experiment import builders as build
from clead_jax.experiment import cost
from clead_jax.experiment import evaluate as measure
from clead_jax.experiment.context import Run, open_run
from clead_jax.reporting import page
from clead_jax.training import checkpoint
from clead_jax.training import state as states
from clead_jax.training.loop import Diverged, fit
from clead_jax.training.metric_writer import MetricWriter
from clead_jax.training.progress import Progress


def run(cfg: Any, workdir: str, name: str, command: str = "") -> None:
    """Runs `cfg.stages` in `workdir`, going on where an earlier run with the same config was.

    `name` and `command` (if there is one) are what the report calls the run and says to type.
    Raises ValueError (one line) for a config that cannot run or that differs, in a field a started stage depends on,
    from the one the work directory was started with; OSError for a directory that cannot be written.
    """
    build.check(cfg)
    refuse_changes(cfg, workdir)
    context = open_run(cfg, workdir, name)
    stages = spec.items(cfg.stages)
    for stage in config.TRAINED_STAGES:
        if stage in stages:
            build.check_batch(cfg, stage, context.splits.train.labels, context.network.num_classes, context.mesh.size)
    if sharding.is_main():
        os.makedirs(workdir, exist_ok=True)
        trains = set(stages) & set(config.TRAINED_STAGES)
        config.save(cfg, workdir, name, command if trains else config.saved_command(workdir))
    left = cost.passes(context)
    if sum(left.values()):
        _say(cost.line(left))
    evaluated = Path(workdir) / "evaluation"
    for stage in config.STAGES:
        if stage not in stages:
            continue
        left.pop(stage, None)
        if stage in config.TRAINED_STAGES:
            train(context, stage, sum(left.values()))
        elif stage == "evaluate":
            evaluated = measure.measure(context)
        elif sharding.is_main():
            written = page.build(workdir)
            print(f"\n{page.table(evaluated)}\n\nreport: {written}")


def refuse_changes(cfg: Any, workdir: str) -> None:
    """Raises ValueError if a stage was started with other values of the fields its weights depend on."""
    for stage in config.TRAINED_STAGES:
        directory = build.checkpoint_dir(workdir, stage)
        meta = checkpoint.latest_meta(directory)
        now = config.portable(config.stage_fields(cfg, stage), workdir)
        if meta and (differing := config.changed(meta["fields"], now)):
            raise ValueError(
                f"{workdir} holds a {stage} stage with other values ({differing}); "
                f"use another --workdir, or delete {directory}"
            )


def train(context: Run, name: str, later: int = 0) -> None:
    """Trains one stage to its end, or says that it is finished. `later`: passes that the run makes after it."""
    cfg, mesh, train_split = context.cfg, context.mesh, context.splits.train
    stage = build.stage(cfg, name, context.network, len(train_split.labels))
    directory = build.checkpoint_dir(context.workdir, name)
    replicated = sharding.replicated(mesh)

    restored = restore(context, stage, directory)
    first_step = restored.step if restored else 0
    if first_step >= stage.plan.total_steps:
        _say(f"{name}: finished already ({first_step} steps)")
        return
    if restored:
        mine, rest = states.split(restored.model, stage.trained)
        state = states.TrainState(**mine, **restored.train)
    else:
        state, rest = states.create(initial_variables(context, name), stage.trained, stage.tx)
    reference = None
    if build.needs_reference(cfg, name):
        reference = upstream_model(context, "baseline", "latest")
    frozen = sharding.put(states.Frozen(train_split.images, train_split.labels, rest, reference), replicated)
    progress = Progress(name, stage.plan, stage.passes, sharding.is_main(), later)
    hooks = Hooks(context, name, stage, directory, first_step, frozen, progress)
    try:
        fit(
            jax.jit(stage.step, donate_argnums=0, out_shardings=replicated),
            sharding.put(state, replicated),
            frozen,
            plan=stage.plan,
            key=build.seed_of(cfg, name),
            first_step=first_step,
            place=lambda index: sharding.put(index.astype(np.int32), sharding.split(mesh)),
            fetch=sharding.to_host,
            hooks=hooks,
            log_every=cfg.log.every,
        )
    except Diverged as error:
        good = [step for step in checkpoint.steps(directory) if step < error.bad]
        last = f"step {good[-1]}" if good else "none"
        raise Diverged(f"{name}: {error}; last good checkpoint: {last}", error.bad) from None
    finally:
        hooks.close()


def restore(context: Run, stage: build.Stage, directory: str) -> checkpoint.Restored | None:
    """The latest readable checkpoint of a stage, laid out over the mesh, or None if it has not begun."""
    begin = lambda key: states.create(context.network.init(key, _image(context), False), stage.trained, stage.tx)
    abstract, rest = jax.eval_shape(begin, jax.random.key(0))
    sharding = sharding.replicated(context.mesh)
    place = lambda tree: jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)
    whole = states.variables(abstract.params, abstract.batch_stats, rest)
    return checkpoint.restore(directory, place(whole), place(_for_training(abstract)))


def initial_variables(context: Run, name: str) -> PyTree:
    """Where a stage starts: fresh weights, or those of its upstream stage. The probe's linear layer is always fresh."""
    init = jax.jit(lambda key: context.network.init(key, _image(context), False))
    fresh = init(jax.random.fold_in(build.seed_of(context.cfg, name), 1))
    source = build.upstream(context.cfg, name)
    if source is None:
        return fresh
    variables = upstream_model(context, *source)
    if name == "probe":
        variables["params"]["head"] = fresh["params"]["head"]
    return variables


def upstream_model(context: Run, stage: str, which: int | str) -> PyTree:
    """The variables of another stage. Raises ValueError if that stage has not been trained to its end."""
    directory = build.checkpoint_dir(context.workdir, stage)
    meta, epochs = checkpoint.latest_meta(directory), context.cfg[stage].epochs
    if meta is None or meta["epoch"] < epochs:
        done = f"is at epoch {meta['epoch']} of {epochs}" if meta else "has no checkpoint"
        raise ValueError(f"stage {stage!r} {done} in {context.workdir}: add it to config.stages")
    return checkpoint.restore_model(directory, which)[0]


class Hooks:
    """What happens beside training: lines on the screen, metrics.jsonl, validation, checkpoints."""

    def __init__(
        self,
        context: Run,
        name: str,
        stage: build.Stage,
        directory: str,
        first_step: int,
        frozen: states.Frozen,
        progress: Progress,
    ):
        self._context, self._name, self._stage, self._directory = context, name, stage, directory
        self._rest, self._progress, self._epoch_started = frozen.variables, progress, time.monotonic()
        self._attack = arsenal.validation_attack(context.cfg)
        held = context.splits.validation
        count = min(context.cfg.validation.num_examples, len(held.labels))
        self._held = data.subset(held, count, context.cfg.seed) if count < len(held.labels) else held
        folder = Path(context.workdir)
        self._writer = MetricWriter(folder / "metrics.jsonl", folder / "tensorboard", sharding.is_main())
        self._writer.drop_after(name, first_step)
        self._progress.start()
        if first_step:
            _say(f"{name}: going on after step {first_step} of {stage.plan.total_steps}")

    def on_log(self, step: int, means: dict[str, float]) -> None:
        """Keeps the clock and the live line."""
        self._progress.tick(step, means["loss"])

    def on_epoch(self, epoch: int, step: int, state: PyTree, means: dict[str, float]) -> None:
        """Validates and saves where it is time to; one line in metrics.jsonl and on the screen.

        Raises Diverged for weights that are no finite numbers, or that give none: they are not saved.
        """
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(sharding.to_host(state.params))):
            raise Diverged(f"a weight is no finite number after step {step}", bad=step)
        paused = time.monotonic()
        every, last = self._context.cfg.validation.every, epoch == self._stage.plan.epochs
        validated = epoch % every == 0 or last
        if validated:
            try:
                means |= self._validate(state)
            except FloatingPointError as error:
                raise Diverged(f"{error}, after step {step}", bad=step) from error
        seconds = paused - self._epoch_started  # of training: what a validation costs is a choice of its own
        line = {"stage": self._name, "step": step, "epoch": epoch, "epochs": self._stage.plan.epochs, **means}
        passes = self._stage.plan.steps_per_epoch * self._stage.plan.batch_size * self._stage.passes
        speed = self._progress.images_per_second
        self._writer.write(line | {"images_per_s": speed, "seconds": round(seconds, 3), "passes": passes})
        self._progress.epoch(epoch, step, means)
        if validated or epoch % self._context.cfg.checkpoint.every == 0:
            self._save(step, epoch, state, means.get("val_robust"))
        self._progress.leave_out(time.monotonic() - paused)
        self._epoch_started = time.monotonic()

    def close(self) -> None:
        """Flushes what is written in the background."""
        self._writer.close()

    def _validate(self, state: PyTree) -> dict[str, float]:
        """Clean and robust accuracy of the classifier on held-out images; in phase 1 that is the online head."""
        context, held = self._context, self._held
        variables = sharding.put(
            states.variables(state.params, state.batch_stats, self._rest), sharding.replicated(context.mesh)
        )
        clean = context.evaluator.predict(variables, held.images) == held.labels
        outcome = context.evaluator.attack(
            variables, held.images, held.labels, self._attack, key=jax.random.key(context.cfg.seed), index=held.index
        )
        return {"val_clean": float(clean.mean()), "val_robust": float(outcome.correct.mean())}

    def _save(self, step: int, epoch: int, state: PyTree, score: float | None) -> None:
        cfg = self._context.cfg
        meta = {
            "stage": self._name,
            "epoch": epoch,
            "network": self._context.network_fields,
            "image_shape": list(self._context.dataset.image_shape),
            "fields": config.portable(config.stage_fields(cfg, self._name), self._context.workdir),
        }
        whole = states.variables(state.params, state.batch_stats, self._rest)
        checkpoint.save(self._directory, step, whole, _for_training(state), meta, score)


def _for_training(state: states.TrainState) -> dict[str, PyTree]:
    """What only training needs of a state."""
    return {"step": state.step, "opt_state": state.opt_state, "extra": state.extra}


def _image(context: Run) -> np.ndarray:
    return np.zeros((1, *context.dataset.image_shape), np.float32)


def _say(line: str) -> None:
    if sharding.is_main():
        print(line, flush=True)
