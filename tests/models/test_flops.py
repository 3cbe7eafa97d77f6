"""The count of operations where a program is more than a list of them."""

import jax
import jax.numpy as jnp

from clead_jax.core import sharding
from clead_jax.models import flops


def test_a_loop_counts_as_often_as_it_runs_and_a_share_on_every_device():
    x, w = jax.ShapeDtypeStruct((16, 4), jnp.float32), jax.ShapeDtypeStruct((4, 4), jnp.float32)
    product = lambda x, w: x @ w
    loop = lambda x, w: jax.lax.scan(lambda carry, _: (carry @ w, None), x, length=3)[0]
    specs = {"in_specs": (sharding.SPLIT, sharding.REPLICATED), "out_specs": sharding.SPLIT}
    shared = jax.shard_map(product, mesh=sharding.data_mesh(jax.devices()[:4]), **specs)
    once = 2 * 16 * 4 * 4
    assert [flops.count(fn, x, w) for fn in (product, loop, shared)] == [once, 3 * once, once]
