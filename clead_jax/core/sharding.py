"""Many devices and many hosts: a one-dimensional mesh, two shardings, and attacks spread over the devices.

Programs are written for the global batch: under `jit`, with a batch that is `split` over the mesh and a `replicated`
state, XLA adds the sums over devices, BatchNorm and contrastive negatives see the whole batch, and results differ
between device counts by rounding only. Hence no axis name, no pmean, and no case for one device or for one host.
An attack on labels treats examples separately, without communication: `sharded` and `pmapped` give, bit for bit, what
one device gives.
"""

import itertools
import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src.clusters.cluster import ClusterEnv  # jax.distributed.initialize asks it too
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from clead_jax.core import cluster, stopping
from clead_jax.core.types import Array, PyTree

T = TypeVar("T")

AXIS = "data"
SPLIT, REPLICATED = P(AXIS), P()
"""How an argument lies on the mesh: its leading axis cut over the devices, or whole on each of them."""


def initialize(distributed: bool) -> None:
    """Join the other processes if `distributed`; must come before any other use of jax.

    The cluster is found from SLURM's variables (one task per GPU), or from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID. ValueError, one line, where there is none or it cannot be joined.
    """
    if not distributed:
        return
    needs = "run under SLURM, or set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID"
    given = [os.environ.get(f"JAX_{name}") for name in ("COORDINATOR_ADDRESS", "NUM_PROCESSES", "PROCESS_ID")]
    try:
        count, rank = (int(word) if word else None for word in given[1:])
        address, count, rank, local = ClusterEnv.auto_detect_unset_distributed_params(
            given[0], count, rank, None, None, int(cluster.JOIN)
        )
        if address is None or count is None or rank is None:
            raise ValueError("there is no cluster")
        cluster.join(address, count, rank)
        jax.distributed.initialize(address, count, rank, local)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"cannot start --distributed: {str(error).splitlines()[0]} ({needs})") from error
    asked = itertools.count(1)
    stopping.share(
        tell=lambda: signal.raise_signal(signal.SIGTERM),  # jax has its own handler of this one, and tells the others
        agreed=lambda: multihost_utils.reached_preemption_sync_point(next(asked)),
    )


def machine() -> dict[str, Any]:
    """What this process computes with, as plain values."""
    return {
        "jax": jax.__version__,
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }


def is_main() -> bool:
    """Whether this process is the one that prints and writes files."""
    return jax.process_index() == 0


def of_main(number: float) -> float:
    """The first process's number on every process, which all must ask together: what they decide by must be one."""
    return number if jax.process_count() == 1 else float(multihost_utils.broadcast_one_to_all(np.float32(number)))


def shared_clock() -> Callable[[], float]:
    """Seconds from now on by the first process's clock; all processes must ask together."""
    began = time.monotonic()
    return lambda: of_main(time.monotonic() - began)


def main_first(fn: Callable[[], T]) -> T:
    """fn() on every process, on the first one before the others: it prepares the files that they then find."""
    if is_main():
        result = fn()
        cluster.everyone("prepared")
        return result
    cluster.everyone("prepared")
    return fn()


def data_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with one axis, "data", over `devices` (default: all devices of all hosts)."""
    devices = jax.devices() if devices is None else devices
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole: model, optimizer state, resident data."""
    return NamedSharding(mesh, REPLICATED)


def split(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its leading axis cut over the devices (a multiple of their number)."""
    return NamedSharding(mesh, SPLIT)


def abstract(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Shapes and types of the arrays, or of what `jax.eval_shape` gives, as they would lie after `put`."""

    def lying(a: Any) -> jax.ShapeDtypeStruct:
        dtype, weak = jax.dtypes.canonicalize_dtype(a.dtype, allow_extended_dtype=True), getattr(a, "weak_type", False)
        return jax.ShapeDtypeStruct(np.shape(a), dtype, sharding=sharding, weak_type=weak)

    return jax.tree.map(lying, tree)


def platform_of(mesh: Mesh) -> str:
    """What the devices of a mesh are: cpu, gpu, or cuda where they are only compiled for."""
    return mesh.devices.flat[0].platform


def gathered_once(mesh: Mesh | None) -> Callable[[Array], Array]:
    """What makes an array [B, ...] whole on every device, inside of a program, so that loops find it so.

    Else XLA chooses what is gathered, where the array meets another one that is split: in every round of a loop.
    """
    if mesh is None or mesh.size == 1:
        return lambda x: x
    return lambda x: jax.lax.with_sharding_constraint(x, replicated(mesh))


def put(tree: PyTree, sharding: NamedSharding) -> PyTree:
    """Lay arrays out by `sharding`; what lies so already stays. Each of several hosts passes the same, whole arrays."""

    def place(x: Any) -> Array:
        if sharding.is_fully_addressable or (isinstance(x, jax.Array) and not x.is_fully_addressable):
            return jax.device_put(x, sharding)
        # For an array of this host's, device_put would first send it whole between the hosts, to compare.
        return jax.make_array_from_callback(np.shape(x), sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def to_host(tree: PyTree) -> PyTree:
    """Whole numpy arrays on every host, also of arrays whose parts lie on several (then all hosts must call)."""

    def fetch(x: Any) -> np.ndarray:
        whole = not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated
        return np.asarray(x) if whole else multihost_utils.process_allgather(x, tiled=True)

    return jax.tree.map(fetch, tree)


def sharded(fn: Callable[..., PyTree], mesh: Mesh, in_specs: Sequence[P]) -> Callable[..., PyTree]:
    """Compile `fn` over the mesh; one of SPLIT and REPLICATED per argument, results [B, ...] split.

    A contrastive attack takes the whole batch's anchors as a REPLICATED argument: gathered once, before its steps.
    """
    return jax.jit(fn, in_shardings=tuple(NamedSharding(mesh, spec) for spec in in_specs), out_shardings=split(mesh))


def pmapped(fn: Callable[..., PyTree], in_specs: Sequence[P]) -> Callable[..., PyTree]:
    """The `jax.pmap` form of `sharded`, over this host's devices, for callers with pmapped programs of their own."""
    mapped = jax.pmap(fn, in_axes=tuple(0 if spec == SPLIT else None for spec in in_specs))
    devices = jax.local_device_count()
    fold = lambda x: x.reshape(devices, -1, *x.shape[1:])
    unfold = lambda x: x.reshape(-1, *x.shape[2:])

    def call(*args: PyTree) -> PyTree:
        folded = [jax.tree.map(fold, a) if s == SPLIT else a for a, s in zip(args, in_specs, strict=True)]
        return jax.tree.map(unfold, mapped(*folded))

    return call
