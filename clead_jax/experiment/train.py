"""Trains one stage: from its initial weights, or from its last checkpoint, to its end.

Its step is compiled before anything is laid out on the devices, so that one that does not fit is refused in one line.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from clead_jax import data
from clead_jax.core import memory, numerics, sharding
from clead_jax.core.progress import log
from clead_jax.core.rows import on_disk
from clead_jax.core.types import PyTree
from clead_jax.experiment import static_views, without_labels
from clead_jax.experiment.builders import checkpoint_dir, latest_meta, less_memory
from clead_jax.experiment.context import Run
from clead_jax.experiment.stages import Stage
from clead_jax.training import averaging, checkpoint, encoding, supply
from clead_jax.training import state as states
from clead_jax.training.callbacks import Callbacks
from clead_jax.training.loop import Diverged, fit
from clead_jax.training.metric_writer import MetricWriter
from clead_jax.training.progress import Progress
from clead_jax.training.state import TrainState


def train(run: Run, stage: Stage, later: int = 0) -> None:
    """Trains one stage to its end, or says that it is finished. `later`: passes that the run makes after it."""
    directory, replicated = checkpoint_dir(run.workdir, stage.name), sharding.replicated(run.mesh)
    restored = restore(run, stage, directory)
    first_step, begun = (restored.step, restored.meta) if restored else (0, {})
    if first_step >= stage.plan.total_steps:
        log.info(f"{stage.name}: finished already ({first_step} steps)")
        return
    if restored:
        mine, rest = states.split(restored.model, stage.trained, stage.moving)
        state = TrainState(**mine, **restored.train)
    else:
        state, rest = begin(stage, initial_variables(run, stage))
    rest = sharding.put(rest, replicated)
    upstream = lambda other: upstream_model(run, other, "latest") if other else None
    frozen = states.Frozen(rest, upstream(stage.reference), upstream(stage.teacher))
    progress = Progress(stage.name, stage.plan, stage.passes, sharding.is_main(), later)
    folder = Path(run.workdir)
    writer = MetricWriter(folder / "metrics.jsonl", folder / "tensorboard", sharding.is_main())
    writer.drop_after(stage.name, first_step)
    progress.start()
    if first_step:
        log.info(f"{stage.name}: going on after step {first_step} of {stage.plan.total_steps}")
    try:
        supplied = _supply(run, stage, _resident(run, stage, frozen, writer))
        step = compiled_step(run, stage, state, supplied)
        fit(
            step,
            sharding.put(state, replicated),
            sharding.put(supplied.frozen, replicated),
            plan=stage.plan,
            key=stage.key,
            first_step=first_step,
            place=supplied.place,
            in_turn=supplied.in_turn,
            fetch=sharding.to_host,
            hooks=_callbacks(run, stage, directory, rest, writer, progress, begun.get("spent", 0.0)),
            log_every=stage.log_every,
            sums=begun.get("sums"),
        )
    except Diverged as error:
        good = [step for step in checkpoint.steps(directory) if step < error.bad]
        raise Diverged(f"{stage.name}: {error}; last good checkpoint: {_last(good)}", error.bad) from None
    except (MemoryError, RuntimeError) as error:
        if not memory.exhausted(error):
            raise
        said = (str(error).strip() or "no more is to be had").splitlines()[0]
        kept = f"last checkpoint: {_last(checkpoint.steps(directory))}"
        raise ValueError(f"{stage.name}: out of memory ({said}); {less_memory(run.cfg, stage.name)}; {kept}") from error
    finally:
        writer.close()


def _last(steps: list[int]) -> str:
    return f"step {steps[-1]}" if steps else "none"


def jitted(step: Callable, mesh: jax.sharding.Mesh) -> Any:
    """A step (state, frozen or resident, batch or index, key) -> (state, metrics) under `jit`; the state is donated."""
    return jax.jit(step, donate_argnums=0, out_shardings=sharding.replicated(mesh))


def compiled_step(run: Run, stage: Stage, state: TrainState, supplied: supply.Supply) -> Callable:
    """The step that `supplied` has, compiled for arrays like these, which lie on the host yet or on one device.

    One line says what memory it needs and what there is. Raises ValueError, naming what needs less, where that is more.
    """
    whole = sharding.replicated(run.mesh)
    batch = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding),
        supplied.place(np.zeros(stage.plan.batch_size, np.int32)),
    )
    args = (*sharding.abstract((state, supplied.frozen), whole), batch, stage.key)
    compiled = jitted(supplied.step, run.mesh).lower(*args).compile()
    needed, room = memory.need(compiled), memory.room(list(run.mesh.devices.flat))
    if needed:
        log.info(f"{stage.name}: {memory.line(needed, room)}")
        if not room.holds(needed):
            raise ValueError(f"{stage.name}: {memory.line(needed, room)}; {less_memory(run.cfg, stage.name)}")
    return compiled


def _resident(run: Run, stage: Stage, frozen: states.Frozen, writer: MetricWriter) -> states.Resident:
    """All training examples of a stage, with what else is to be known of them before it begins."""
    (images, labels), near = run.examples_of(stage), None
    if stage.labelled_by:
        source, which, by = stage.labelled_by
        weights = upstream_model(run, source, which)
        labels = without_labels.pseudo_labels(run.network_fields, weights, images, by, source, run.seed)
    if stage.neighbours:
        source, which, count = stage.neighbours
        near = without_labels.neighbours(run.network_fields, upstream_model(run, source, which), images, count)
    stored = static_views.stored(run, stage, frozen.reference, writer)
    return states.Resident(frozen, images, labels, stored, near)


def _supply(run: Run, stage: Stage, examples: states.Resident) -> supply.Supply:
    """How the examples reach the step: resident, or streamed where they are too many for that, with a line."""
    if not run.streams(stage):
        return supply.resident(stage.step, examples, run.mesh)
    place = "disk" if on_disk(examples.images) else "the host's memory"
    log.info(f"{stage.name}: {examples.images.nbytes:,} bytes of images, streamed from {place} batch by batch")
    return supply.streamed(stage.step, examples, run.mesh)


def restore(run: Run, stage: Stage, directory: str) -> checkpoint.Restored | None:
    """The latest readable checkpoint of a stage, laid out over the mesh, or None if it has not begun."""
    abstract, rest = jax.eval_shape(lambda key: begin(stage, run.fresh(key)), numerics.key(0))
    layout = sharding.replicated(run.mesh)
    place = lambda tree: sharding.abstract(tree, layout)
    whole = states.variables(abstract.params, abstract.batch_stats, rest)
    return checkpoint.restore(directory, place(whole), place(_for_training(abstract)))


def begin(stage: Stage, variables: PyTree) -> tuple[TrainState, PyTree]:
    """A stage's state before its first step, and what it leaves alone."""
    variables = encoding.with_norms(variables) if stage.two_norms else variables
    return states.create(variables, stage.trained, stage.tx, stage.extra, stage.moving)


def initial_variables(run: Run, stage: Stage) -> PyTree:
    """Where a stage starts: fresh weights, or those of another stage but for the parts that are to be fresh."""
    fresh = jax.jit(run.fresh)(jax.random.fold_in(stage.key, 1))
    if stage.origin is None:
        return fresh
    variables = upstream_model(run, *stage.origin)
    for part in stage.fresh:
        for collection in variables:
            if part in fresh.get(collection, {}):
                variables[collection][part] = fresh[collection][part]
    return variables


def upstream_model(run: Run, stage: str, which: str) -> PyTree:
    """The variables of another stage: its last, its best, or averaged ones by their name.

    Raises ValueError if that stage has not been trained to its end.
    """
    directory = checkpoint_dir(run.workdir, stage)
    meta, epochs = latest_meta(run.workdir, stage), run.epochs[stage]
    if meta is None or meta["epoch"] < epochs:
        done = f"is at epoch {meta['epoch']} of {epochs}" if meta else "has no checkpoint"
        raise ValueError(f"stage {stage!r} {done} in {run.workdir}: add it to config.stages")
    which, name = (which, "") if which in ("latest", "best") else ("latest", which)
    return checkpoint.restore_model(directory, which, name)[0]


def _callbacks(
    run: Run, stage: Stage, directory: str, rest: PyTree, writer: MetricWriter, progress: Progress, spent: float
) -> Callbacks:
    held = run.splits.validation
    count = min(stage.validation.num_examples, len(held.labels))
    held = data.in_memory(data.subset(held, count, run.seed) if count < len(held.labels) else held)
    whole = lambda params, batch_stats: states.variables(params, batch_stats, rest)
    meta = run.meta(stage)

    def save(step: int, epoch: int, state: TrainState, score: float | None, **more: Any) -> None:
        named, own = stage.extra.weights(state.extra).items(), stage.extra.statistics(state.extra)
        statistics = lambda name, params: own[name] if name in own else _statistics(run, stage, params, state, rest)
        sets = {name: whole(params, statistics(name, params)) for name, params in named}
        model = whole(state.params, state.batch_stats)
        checkpoint.save(directory, step, model, _for_training(state), meta | {"epoch": epoch} | more, score, sets)

    def validate(state: TrainState) -> dict[str, float]:
        if held.labels.max() < 0:
            return {}
        variables = sharding.put(whole(state.params, state.batch_stats), sharding.replicated(run.mesh))
        return run.validate(variables, held, stage.validation.attack)

    return Callbacks(
        name=stage.name,
        plan=stage.plan,
        passes=stage.passes,
        writer=writer,
        progress=progress,
        fetch=sharding.to_host,
        validate=validate,
        save=save,
        validate_every=stage.validation.every,
        save_every=stage.save_every,
        spent=spent,
    )


def _statistics(run: Run, stage: Stage, params: PyTree, state: TrainState, rest: PyTree) -> PyTree:
    """Batch statistics for other weights, from the first training images, augmented as the stage does."""
    if not jax.tree.leaves(state.batch_stats):
        return state.batch_stats
    network, split = run.network, sharding.split(run.mesh)

    def apply(batch_stats: PyTree, batch: tuple[Any, Any]) -> PyTree:
        x = stage.augment(*batch)
        merged = states.variables(params, batch_stats, rest)
        _, new = network.apply(merged, x, True, method=network.features, mutable=["batch_stats"])
        return {part: new["batch_stats"][part] for part in batch_stats}

    size, images = stage.plan.batch_size, run.splits.train.images
    starts = range(0, min(len(images) - size, averaging.IMAGES - size) + 1, size)
    keys = lambda start: jax.random.split(jax.random.fold_in(stage.key, start), size)
    batches = (sharding.put((keys(start), images[start : start + size]), split) for start in starts)
    return averaging.reestimated(apply, state.batch_stats, batches)


def _for_training(state: TrainState) -> dict[str, PyTree]:
    """What only training needs of a state."""
    return {"step": state.step, "opt_state": state.opt_state, "extra": state.extra}
