"""What `benchmark` times: matrix products, the attacks of the evaluation, and training steps, all on random images.

A case is something to call and the FLOPs that it asks for; cases are made one at a time, so that each has the memory
to itself. A time is the median of several calls, after one that compiles and warms up.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from clead_jax import config, data
from clead_jax.attacks import parse as arsenal
from clead_jax.core import sharding, spec
from clead_jax.core.types import Key, PyTree, Step
from clead_jax.evaluation.verify import Evaluator, NamedAttack, pixels
from clead_jax.experiment import builders as build
from clead_jax.models import flops
from clead_jax.training import state as states

FEWEST = 3  # calls in a median
SIZES = (1024, 2048, 4096, 8192)  # of matrices, per device
LONG = 0.2  # seconds: after a matrix product that took longer, no larger one is tried
CLASSES = {"cifar10": 10, "cifar100": 100}  # sets of 32 x 32 x 3 pixels that need not be read


class Bench(NamedTuple):
    """What is timed, and for how long."""

    cfg: Any
    mesh: jax.sharding.Mesh
    network: Any
    init: Callable[[], PyTree]  # fresh variables, always the same
    dataset: data.Dataset  # random; both splits are the same
    seconds: float  # for each case


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


def open_bench(cfg: Any, seconds: float, batch_size: int = 0) -> Bench:
    """A network and random images for `cfg`. Its batch sizes become `batch_size` if above 0, and multiples of devices.

    Raises ValueError for a config that cannot run.
    """
    build.check(cfg)
    mesh = sharding.data_mesh()
    sections = [cfg[name] for name in (*config.TRAINED_STAGES, "evaluation")]
    for section in sections:
        section.batch_size = build.rounded_up(batch_size or section.batch_size, mesh.size)
    dataset = random_dataset(cfg, max(section.batch_size for section in sections))
    train = data.Examples(dataset.train_images, dataset.train_labels, np.arange(len(dataset.train_labels)))
    network = build.network(build.network_fields(cfg, dataset, train))
    image = np.zeros((1, *dataset.image_shape), np.float32)
    init = jax.jit(lambda: network.init(jax.random.key(cfg.seed), image, False))
    return Bench(cfg, mesh, network, init, dataset, seconds)


def random_dataset(cfg: Any, size: int) -> data.Dataset:
    """`size` random images and labels, in the shape and classes of `cfg.data.name`: it is read for them, save CIFAR."""
    shape: tuple[int, ...]
    if cfg.data.name in CLASSES:
        side = cfg.data.image_size or 32
        shape, classes = (side, side, 3), CLASSES[cfg.data.name]
    else:
        real = build.dataset(cfg)
        shape, classes = real.image_shape, real.num_classes
    random = np.random.default_rng(cfg.seed)
    images = random.integers(0, 256, (size, *shape), np.uint8)
    labels = random.integers(0, classes, size, np.int32)
    return data.Dataset(cfg.data.name, images, labels, images, labels, tuple(map(str, range(classes))))


def environment(bench: Bench) -> dict[str, Any]:
    """The machine and its measured rate, what was timed, and the FLOPs of one image by our count and by XLA's."""
    shape, forward = bench.dataset.image_shape, build.forward(bench.network)
    one = (jax.eval_shape(bench.init), jax.ShapeDtypeStruct((1, *shape), np.float32))
    dtypes = dict.fromkeys(("float32", bench.cfg.model.dtype))
    return {
        "device": jax.devices()[0].device_kind,
        "devices": bench.mesh.size,
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        **{section: dict(bench.cfg[section]) for section in ("model", "train_attack", "evaluation")},
        "views": bench.cfg.views,
        "image_shape": list(shape),
        "matmul_flops_per_s": {dtype: matmul_rate(bench.mesh, dtype, bench.seconds) for dtype in dtypes},
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
    return jax.jit(lambda: jax.random.normal(jax.random.key(0), shape, dtype), out_shardings=sharding)()


def measure(bench: Bench) -> Iterator[Line]:
    """Times every case."""
    groups = [attack_cases, step_cases, *([form_cases] if 1 < bench.mesh.size == jax.local_device_count() else [])]
    for what, batch, work, call in (case for cases in groups for case in cases(bench)):
        median, repeats = timed(call, bench.seconds)
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


# --- cases ------------------------------------------------------------------------------------------------------------


def attack_cases(bench: Bench) -> Iterator[Case]:
    """The forward pass and the attacks of the evaluation, as `Evaluator` drives them."""
    batch, forward = bench.cfg.evaluation.batch_size, build.forward(bench.network)
    place = lambda x: sharding.put(x, sharding.split(bench.mesh))
    evaluator = Evaluator(forward, batch, place, sharding.to_host)
    variables = sharding.put(bench.init(), sharding.replicated(bench.mesh))
    images, labels, keys = _batch(bench)
    one_pass = flops.count(forward, variables, pixels(images))
    yield Case("forward", batch, one_pass, lambda: evaluator.predict(variables, images))

    def case(text: str) -> Case:
        named = arsenal.evaluation_attack(bench.cfg, text)
        # The evaluator classifies the clean and the final image besides.
        work = 2 * one_pass + attack_flops(named, forward, variables, pixels(images), labels, keys)
        call = lambda: evaluator.attack(variables, images, labels, named, key=jax.random.key(0))
        return Case(f"attack {text}", batch, work, call)

    yield from map(case, spec.items(bench.cfg.evaluation.attacks))


def attack_flops(named: NamedAttack, forward: Callable, variables: PyTree, *batch: Any) -> int:
    """FLOPs of all steps of an attack on `batch`: images, labels, keys."""
    attack, objective, cfg = named.attack, named.objective, named.cfg
    bind = lambda v: lambda x: forward(v, x)
    state = jax.eval_shape(lambda v, *b: attack.init(bind(v), objective, *b, cfg), variables, *batch)
    one_step = flops.count(lambda v, s: attack.step(bind(v), objective, s, cfg), variables, state)
    return attack.num_steps(cfg) * one_step


def step_cases(bench: Bench) -> Iterator[Case]:
    """One training step of every stage, compiled as `experiment.train` does."""
    cfg, replicated = bench.cfg, sharding.replicated(bench.mesh)
    images, labels = bench.dataset.train_images, bench.dataset.train_labels
    for name in config.TRAINED_STAGES:
        stage, batch = build.stage(cfg, name, bench.network, len(labels)), cfg[name].batch_size
        state, rest = states.create(bench.init(), stage.trained, stage.tx)
        reference = bench.init() if build.needs_reference(cfg, name) else None
        frozen = sharding.put(states.Frozen(images, labels, rest, reference), replicated)
        index = sharding.put(np.arange(batch, dtype=np.int32), sharding.split(bench.mesh))
        args = (sharding.put(state, replicated), frozen, index, jax.random.key(0))
        step = jax.jit(stage.step, donate_argnums=0, out_shardings=replicated)
        yield Case(f"step {name}", batch, flops.count(stage.step, *args), repeated(step, *args))


def repeated(step: Step, state: PyTree, frozen: PyTree, index: jax.Array, key: Key) -> Callable[[], PyTree]:
    """A call that makes the next step, from the state that the last one left."""

    def call() -> PyTree:
        nonlocal state
        state, metrics = step(state, frozen, index, key)
        return state, metrics

    return call


def form_cases(bench: Bench) -> Iterator[Case]:
    """The training PGD on one device and in its two forms for many; all get arrays that lie on the first device."""
    forward, attack = build.forward(bench.network), arsenal.training_attack(bench.cfg, "pgd")
    images, labels, keys = _batch(bench)
    args = (bench.init(), *jax.device_put((pixels(images), labels)), keys)
    specs = (sharding.REPLICATED, sharding.SPLIT, sharding.SPLIT, sharding.SPLIT)
    fn = lambda variables, *batch: attack(lambda x: forward(variables, x), *batch)
    work = flops.count(fn, *args)
    forms = {
        "one device": jax.jit(fn),
        "sharded": sharding.sharded(fn, bench.mesh, specs),
        "pmapped": sharding.pmapped(fn, specs),
    }
    for name, form in forms.items():
        yield Case(f"pgd, {name}", len(labels), work, lambda form=form: form(*args))  # type: ignore[misc]


def _batch(bench: Bench) -> tuple[np.ndarray, np.ndarray, Key]:
    """A batch as the evaluation has it: images, labels, keys."""
    batch, dataset = bench.cfg.evaluation.batch_size, bench.dataset
    return dataset.test_images[:batch], dataset.test_labels[:batch], jax.random.split(jax.random.key(0), batch)
