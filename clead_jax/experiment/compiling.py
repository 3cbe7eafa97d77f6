"""What `benchmark --compile_for` tells of every program of a config, compiled for devices that need not be there.

Nothing is allocated and nothing runs: arguments are shapes, and what is reported is read from the compiled program.
"""

import copy
import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax.config import Config
from clead_jax.core import batches, hlo, memory, numerics, sharding, spec
from clead_jax.core.types import Key, NamedAttack, PyTree
from clead_jax.evaluation.classifier import Programs
from clead_jax.experiment import builders, context
from clead_jax.experiment.context import Run
from clead_jax.experiment.stages import Stage
from clead_jax.experiment.train import begin, jitted
from clead_jax.models import flops
from clead_jax.training import state as states


class Program(NamedTuple):
    """A program to compile: it treats `batch` images and asks for `flops` floating point operations in all."""

    batch: int
    flops: int
    traced: jax.stages.Traced


def programs(run: Run) -> dict[str, Callable[[], Program]]:
    """Name -> what traces it: a step of every stage, the forward pass, and a step of every attack of the evaluation."""
    found: dict[str, Callable[[], Program]] = {
        f"step {name}": partial(_step, run, stage) for name, stage in run.every_stage.items()
    }
    found["forward"] = partial(_forward, run)
    suite = run.plan.suite
    attacks = {named.name: named for named in (*run.plan.direct, *run.plan.transfer, *(suite.attacks if suite else ()))}
    return found | {f"attack {name}": partial(_attack_step, run, named) for name, named in attacks.items()}


def _step(run: Run, stage: Stage) -> Program:
    """A training step as `experiment.train` compiles it, all training images resident."""
    whole, count, shape = sharding.replicated(run.mesh), builders.num_training(run.cfg), run.dataset.image_shape
    key = numerics.key(0)
    state, rest = jax.eval_shape(lambda key: begin(stage, run.fresh(key)), key)
    other = jax.eval_shape(run.fresh, key)
    frozen = states.Frozen(rest, *(other if name else None for name in (stage.reference, stage.teacher)))
    of = lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype)
    stored = of((count, len(stage.stored), *shape), np.uint8) if stage.stored else None
    near = of((count, stage.neighbours[2]), np.int32) if stage.neighbours else None
    resident = states.Resident(frozen, of((count, *shape), np.uint8), of((count,), np.int32), stored, near)  # type: ignore[arg-type]
    index = sharding.abstract(of((stage.plan.batch_size,), np.int32), sharding.split(run.mesh))
    args = (*sharding.abstract((state, resident), whole), index, sharding.abstract(jax.eval_shape(lambda: key), whole))
    step = states.gathered(stage.step)
    return Program(stage.plan.batch_size, flops.count(step, *args), jitted(step, run.mesh).trace(*args))


def _evaluated(run: Run) -> tuple[Programs, PyTree, PyTree, Key]:
    """(programs, variables, (images, labels, keys) of a batch, key), as the evaluation has them."""
    split, whole = sharding.split(run.mesh), sharding.replicated(run.mesh)
    size, key = batches.sizes(run.eval_batch, run.mesh.size)[-1], numerics.key(0)
    batch = (
        jax.ShapeDtypeStruct((size, *run.dataset.image_shape), np.float32),
        jax.ShapeDtypeStruct((size,), np.int32),
        jax.eval_shape(lambda: jax.random.split(key, size)),
    )
    variables, one = sharding.abstract((jax.eval_shape(run.fresh, key), jax.eval_shape(lambda: key)), whole)
    return Programs(run.classifier, sharding.platform_of(run.mesh)), variables, sharding.abstract(batch, split), one


def _forward(run: Run) -> Program:
    made, variables, (images, *_), key = _evaluated(run)
    work = flops.count(run.classifier.forward, variables, images)
    return Program(images.shape[0], work, made.predict.trace(variables, images, key))


def _attack_step(run: Run, named: NamedAttack) -> Program:
    """One step of an attack: on devices that are no CPU the runner puts several of them into one loop."""
    made, variables, (images, labels, keys), key = _evaluated(run)
    state = jax.eval_shape(partial(made.init, named), variables, images, labels, keys, key)
    state = sharding.abstract(state, sharding.split(run.mesh))
    bound = lambda v, s: named.attack.step(lambda x: run.classifier.forward(v, x), named.objective, s, named.cfg)
    return Program(images.shape[0], flops.count(bound, variables, state), made.traced(named, variables, state, key))


def chosen(run: Run, only: str) -> dict[str, Callable[[], Program]]:
    """Those programs that `only` names, "pretrain,attack pgd", or all. Raises ValueError for a name that is none."""
    known = programs(run)
    found: dict[str, Callable[[], Program]] = {}
    for word in spec.items(only):
        names = [name for name in known if word in (name, name.partition(" ")[2])]
        if not names:
            raise ValueError(f"--only: no program is called {word!r}; known: {', '.join(known)}")
        found |= {name: known[name] for name in names}
    return found or known


def environment(run: Run) -> dict[str, Any]:
    """What is compiled, with what, for how many devices."""
    shape = list(run.dataset.image_shape)
    return {"devices": run.mesh.size, "jax": jax.__version__, **run.timed_settings, "image_shape": shape}


def report(program: Program, mesh: jax.sharding.Mesh) -> dict[str, Any]:
    """What a program is once compiled, as plain values; with "error" and a line where it cannot be compiled.

    memory: bytes on one device. collectives: kind -> count and bytes of the results on one device, in one run.
    convolutions: as often as they run. A loop of unknown length counts as one round of it.
    """
    told: dict[str, Any] = {"batch": program.batch, "flops_per_image": program.flops / program.batch}
    platform, began = sharding.platform_of(mesh), time.perf_counter()
    try:
        made = program.traced.lower(lowering_platforms=("cuda" if platform == "gpu" else platform,)).compile()
    except (RuntimeError, NotImplementedError) as error:  # jax.errors.JaxRuntimeError is of the first kind
        return told | {"error": str(error).strip().partition("\n")[0] or type(error).__name__}
    needed, text = memory.need(made), made.as_text()
    told |= {"compile_seconds": round(time.perf_counter() - began, 1)}
    if needed:
        told["memory"] = needed._asdict() | {"peak": needed.total}
    if text:
        told["collectives"] = {kind: dataclasses.asdict(each) for kind, each in hlo.collectives(text).items()}
        told["convolutions"] = [dataclasses.asdict(each) for each in hlo.convolutions(text)]
    return told


def largest_batch(cfg: Config, what: str, first: int, mesh: jax.sharding.Mesh, usable: int) -> int:
    """The largest batch with which the program `what` needs at most `usable` bytes on a device; 0 if there is none.

    Every batch that is tried is compiled, from `first` on; see `core.batches.largest` for how fine it is.
    """

    def fits(size: int) -> bool:
        run = context.open_random(copy.deepcopy(cfg), size, mesh)
        told = report(programs(run)[what](), mesh)
        if "error" in told and "RESOURCE_EXHAUSTED" not in told["error"]:
            raise ValueError(f"{what} with a batch of {size}: {told['error']}")
        return "error" not in told and told["memory"]["peak"] <= usable

    return batches.largest(fits, first, mesh.size * builders.parts_of_a_batch(cfg))
