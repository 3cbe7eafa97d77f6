"""What `benchmark` times: matrix products, the attacks of the evaluation, and training steps, all on random images.

A case is something to call and the FLOPs that it asks for; cases are made one at a time, so that each has the memory
to itself. A time is the median of several calls, after one that compiles and warms up.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax.core import numerics, sharding
from clead_jax.core.batches import pixels
from clead_jax.core.types import Examples, Key, NamedAttack, PyTree, Step
from clead_jax.evaluation.classifier import Compiled
from clead_jax.evaluation.runner import Finding, run_attacks
from clead_jax.experiment.context import Run
from clead_jax.experiment.train import begin, jitted
from clead_jax.models import flops
from clead_jax.training import state as states

FEWEST = 3  # calls in a median
SIZES = (1024, 2048, 4096, 8192)  # of matrices, per device
FEW = (1, 8, 64)  # images at a time, whose latency is measured
LONG = 0.2  # seconds: after a matrix product that took longer, no larger one is tried


class Case(NamedTuple):
    """Something to time: `call` treats `batch` images and asks for `work` FLOPs."""

    what: str
    batch: int
    work: int
    call: Callable[[], PyTree]


class Line(NamedTuple):
    """What was measured of a case."""

    what: str
    batch: int
    repeats: int
    images_per_s: float
    flops_per_image: float
    flops_per_s: float


def initial(run: Run) -> Callable[[], PyTree]:
    """Fresh variables, always the same."""
    return jax.jit(lambda: run.fresh(numerics.key(run.seed)))


def environment(run: Run, seconds: float) -> dict[str, Any]:
    """The machine and its measured rate, what was timed, and the FLOPs of one image by our count and by XLA's."""
    shape, forward = run.dataset.image_shape, run.classifier.forward
    one = (jax.eval_shape(initial(run)), jax.ShapeDtypeStruct((1, *shape), np.float32))
    dtypes = dict.fromkeys(("float32", run.network.dtype))
    return {
        "device": jax.devices()[0].device_kind,
        "devices": run.mesh.size,
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        **run.timed_settings,
        "image_shape": list(shape),
        "matmul_flops_per_s": {dtype: matmul_rate(run.mesh, dtype, seconds) for dtype in dtypes},
        "forward_flops": {"counted": flops.count(forward, *one), "xla": flops.of_xla(forward, *one)},
    }


def matmul_rate(mesh: jax.sharding.Mesh, dtype: str, seconds: float) -> float:
    """FLOP/s of square matrix products, every device at one of its own: the best of `SIZES`."""
    product, rates = jax.jit(lambda a, b: a @ b), []
    for size in SIZES:
        a = _normal((mesh.size * size, size), dtype, sharding.split(mesh))
        b = _normal((size, size), dtype, sharding.replicated(mesh))
        median, _ = timed(lambda a=a, b=b: product(a, b), seconds / len(SIZES))  # type: ignore[misc]
        rates.append(2 * size**3 * mesh.size / median)
        if median > LONG:
            break
    return max(rates)


def _normal(shape: tuple[int, int], dtype: str, sharding: jax.sharding.NamedSharding) -> jax.Array:
    return jax.jit(lambda: jax.random.normal(numerics.key(0), shape, dtype), out_shardings=sharding)()


def measure(run: Run, seconds: float) -> Iterator[Line]:
    """Times every case."""
    groups = [attack_cases, step_cases, *([form_cases] if 1 < run.mesh.size == jax.local_device_count() else [])]
    for what, batch, work, call in (case for cases in groups for case in cases(run)):
        median, repeats = timed(call, seconds)
        yield Line(what, batch, repeats, batch / median, work / batch, work / median)


def timed(call: Callable[[], PyTree], seconds: float) -> tuple[float, int]:
    """(median seconds, number) of as many calls as fill `seconds`, at least `FEWEST`; the first of all is left out.

    Of several processes the first one's clock decides: all of them must make the same calls.
    """
    jax.block_until_ready(call())
    times: list[float] = []
    while len(times) < FEWEST or sharding.of_main(sum(times)) < seconds:
        begin = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - begin)
    return sharding.of_main(statistics.median(times)), len(times)


def latencies(run: Run, seconds: float) -> Iterator[dict[str, Any]]:
    """`latency` of the forward pass, compiled for each of `FEW` images."""
    variables, forward = initial(run)(), jax.jit(run.classifier.forward)
    for size in FEW:
        yield latency(lambda x: np.asarray(forward(variables, x)), (size, *run.dataset.image_shape), seconds)


def latency(call: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], seconds: float = 1.0) -> dict[str, Any]:
    """Milliseconds that `call` takes for random images [B, H, W, C], median and 95th percentile, and images/s.

    At least 20 calls, one after the other, after three that warm up, each from NumPy to NumPy.
    """
    images = np.random.default_rng(0).random(shape, np.float32)
    times: list[float] = []
    for _ in range(3):
        call(images)
    while len(times) < 20 or sum(times) < seconds:
        begin = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - begin)
    median, high = (1000 * float(np.percentile(times, share)) for share in (50, 95))
    rate = len(times) * shape[0] / sum(times)
    return {"batch": shape[0], "calls": len(times), "median_ms": median, "p95_ms": high, "images_per_s": rate}


def attack_cases(run: Run) -> Iterator[Case]:
    """The forward pass and the attacks of the evaluation, every image to the end."""
    model = run.compiled(dataclasses.replace(run.classifier, variables=initial(run)()))
    examples, keys = _batch(run, model.batch_size)
    forward, images = run.classifier.forward, examples.images
    one_pass = flops.count(forward, model.variables, pixels(images))
    yield Case("forward", len(images), one_pass, lambda: model.predict(images))
    for named in run.plan.direct:
        # The driver classifies the clean and the final image besides.
        work = 2 * one_pass + attack_flops(named, forward, model.variables, pixels(images), examples.labels, keys)
        yield Case(f"attack {named.name}", len(images), work, partial(_attacked, model, examples, named, False))


def _attacked(model: Compiled, examples: Examples, named: NamedAttack, early_stop: bool) -> Finding:
    classes, keep, key = model.classifier.num_classes, (not early_stop) * len(examples.labels), numerics.key(0)
    return run_attacks(model, examples, [named], key=key, num_classes=classes, keep=keep, early_stop=early_stop)


def savings(run: Run) -> Iterator[dict[str, Any]]:
    """What leaving early saves, in passes an image and in time, on images whose label is what the network says."""
    model = run.compiled(dataclasses.replace(run.classifier, variables=initial(run)()))
    examples, _ = _batch(run, model.batch_size)
    examples = dataclasses.replace(examples, labels=model.predict(examples.images).astype(np.int32))
    for named in run.plan.direct:
        found, seconds = {}, {}
        for early in (True, False):
            _attacked(model, examples, named, early)  # compiles
            began = time.perf_counter()
            found[early] = _attacked(model, examples, named, early)
            seconds[early] = time.perf_counter() - began
        passes, without = (float(np.mean(found[early].forward[named.name])) for early in (True, False))
        saved = {"attack": named.name, "passes": passes, "without": without, "ratio": seconds[False] / seconds[True]}
        yield saved | {"same_verdicts": bool((found[True].correct == found[False].correct).all())}


def own_shares(run: Run, seconds: float) -> Iterator[dict[str, Any]]:
    """The share of an attack's time that is not the model's: {"attack", "own_share"}, all steps for every image.

    It is the time of the same attack, in the same driver, on a linear model of the pixels, whose passes cost next to
    nothing: the attack's arithmetic, starting of programs, copies, the check of every image.
    """
    shape, classes = run.dataset.image_shape, run.classifier.num_classes
    weights = jax.random.normal(numerics.key(0), (int(np.prod(shape)), classes)) / np.sqrt(np.prod(shape))
    flat = lambda weights, x: x.reshape(len(x), -1) @ weights
    linear = run.compiled(dataclasses.replace(run.classifier, forward=flat, variables=weights))
    model = run.compiled(dataclasses.replace(run.classifier, variables=initial(run)()))
    examples, _ = _batch(run, model.batch_size)
    for named in run.plan.direct:
        own, whole = (timed(partial(_attacked, of, examples, named, False), seconds)[0] for of in (linear, model))
        yield {"attack": named.name, "own_share": own / whole}


def attack_flops(named: NamedAttack, forward: Callable, variables: PyTree, *batch: Any) -> int:
    """FLOPs of all steps of an attack on `batch`: images, labels, keys."""
    attack, objective, cfg = named.attack, named.objective, named.cfg
    bind = lambda v: lambda x: forward(v, x)
    state = jax.eval_shape(lambda v, *b: attack.init(bind(v), objective, *b, cfg), variables, *batch)
    one_step = flops.count(lambda v, s: attack.step(bind(v), objective, s, cfg), variables, state)
    return attack.num_steps(cfg) * one_step


def step_cases(run: Run) -> Iterator[Case]:
    """One training step of every stage, compiled as `experiment.train` does."""
    init, replicated = initial(run), sharding.replicated(run.mesh)
    images, labels = run.dataset.train_images, run.dataset.train_labels
    for name, stage in run.every_stage.items():
        state, rest = begin(stage, init())
        frozen = states.Frozen(rest, *(init() if other else None for other in (stage.reference, stage.teacher)))
        stored = np.stack([images] * len(stage.stored), axis=1) if stage.stored else None
        near = np.zeros((len(images), 1), np.int32) if stage.neighbours else None
        resident = sharding.put(states.Resident(frozen, images, labels, stored, near), replicated)
        index = sharding.put(np.arange(stage.plan.batch_size, dtype=np.int32), sharding.split(run.mesh))
        args = (sharding.put(state, replicated), resident, index, numerics.key(0))
        step = states.gathered(stage.step)
        work, run_step = flops.count(step, *args), repeated(jitted(step, run.mesh), *args)
        yield Case(f"step {name}", stage.plan.batch_size, work, run_step)


def repeated(step: Step, state: PyTree, frozen: PyTree, index: jax.Array, key: Key) -> Callable[[], PyTree]:
    """A call that makes the next step, from the state that the last one left."""

    def call() -> PyTree:
        nonlocal state
        state, metrics = step(state, frozen, index, key)
        return state, metrics

    return call


def form_cases(run: Run) -> Iterator[Case]:
    """PGD on one device and in its two forms for many; all get arrays that lie on the first device."""
    attack, forward = run.training_pgd, run.classifier.forward
    examples, keys = _batch(run, run.compiled(run.classifier).batch_size)
    args = (initial(run)(), *jax.device_put((pixels(examples.images), examples.labels)), keys)
    specs = (sharding.REPLICATED, sharding.SPLIT, sharding.SPLIT, sharding.SPLIT)
    fn = lambda v, *batch: attack(lambda images: forward(v, images), *batch)
    work = flops.count(fn, *args)
    several = ("sharded", sharding.sharded(fn, run.mesh, specs)), ("pmapped", sharding.pmapped(fn, specs))
    for name, form in (("one device", jax.jit(fn)), *several):
        yield Case(f"pgd, {name}", len(examples.labels), work, lambda form=form: form(*args))  # type: ignore[misc]


def _batch(run: Run, size: int) -> tuple[Examples, Key]:
    """A batch as the evaluation has it, and keys."""
    whole = run.dataset.test
    examples = Examples(whole.images[:size], whole.labels[:size], whole.index[:size])
    return examples, jax.random.split(numerics.key(0), len(examples.labels))
