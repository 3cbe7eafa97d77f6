"""Attack and train on a mesh: what test_parallel.py runs on one device, on eight, and as two processes.

python tests/parallel_program.py OUT    one of several processes; the first writes OUT.npz and OUT-checkpoints
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from clead_jax import attacks
from clead_jax.core import sharding
from clead_jax.core.registry import ATTACKS
from clead_jax.core.sharding import REPLICATED, SPLIT
from clead_jax.training import checkpoint

ROWS = 16
ATTACK_SPECS = (REPLICATED, SPLIT, SPLIT, SPLIT)


class Net(nn.Module):
    """Convolution, BatchNorm, mean, three scores: what could differ between device counts."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3))(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
        return nn.Dense(3)(x.mean((1, 2)))


NET, TX = Net(), optax.sgd(0.1, momentum=0.9)


def attack(name, variables, x, labels, keys):
    """A registered attack, in three steps where it can be told how many."""
    entry = ATTACKS[name]
    cfg = entry.config() if name == "fgsm" else entry.config(steps=3)
    forward = functools.partial(NET.apply, variables, train=False)
    return attacks.run(entry.value, forward, entry.info["objective"], x, labels, keys, cfg)


def example():
    """(variables, images [16, 8, 8, 1], labels [16], keys [16])."""
    rng = np.random.default_rng(0)
    variables = NET.init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)), train=False)
    keys = jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(2)))(jnp.arange(ROWS))
    x, labels = rng.uniform(size=(ROWS, 8, 8, 1)), rng.integers(0, 3, ROWS)
    return variables, x.astype(np.float32), labels.astype(np.int32), keys


def step(variables, opt, x, x_adv):
    """One update by a loss in which every image meets every other, through BatchNorm over all of them."""

    def loss_fn(params):
        views = jnp.stack([x, x_adv], axis=1).reshape(-1, *x.shape[1:])
        z, new = NET.apply({**variables, "params": params}, views, train=True, mutable=["batch_stats"])
        similarity = z[::2] @ z[1::2].T
        loss = optax.softmax_cross_entropy_with_integer_labels(similarity, jnp.arange(len(x)))
        return loss.mean(), new["batch_stats"]

    (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(variables["params"])
    updates, opt = TX.update(grads, opt, variables["params"])
    return {"params": optax.apply_updates(variables["params"], updates), "batch_stats": stats}, opt, loss, grads


def program(mesh):
    """Two steps of training on attacked images: (x_adv, loss, grads, variables, opt) of each, on the host."""
    variables, *batch = example()
    batch = sharding.put(batch, sharding.split(mesh))
    variables, opt = sharding.put((variables, TX.init(variables["params"])), sharding.replicated(mesh))
    attack_fn = sharding.sharded(functools.partial(attack, "pgd"), mesh, ATTACK_SPECS)
    step_fn = jax.jit(step, out_shardings=sharding.replicated(mesh))
    log = []
    for _ in range(2):
        x_adv = attack_fn(variables, *batch)
        variables, opt, loss, grads = step_fn(variables, opt, batch[0], x_adv)
        log.append((x_adv, loss, grads, variables, opt))
    return sharding.to_host(log)


def main(out):
    """The program as one of several processes, then checkpoints written and read by all of them."""
    sharding.initialize(distributed=True)
    mesh = sharding.data_mesh()
    log = program(mesh)
    *_, variables, opt = log[-1]
    model, train = sharding.put((variables, {"opt": opt}), sharding.replicated(mesh))
    for number, score in ((10, 0.9), (20, 0.1), (30, 0.2), (40, 0.3)):
        checkpoint.save(f"{out}-checkpoints", number, model, train, {}, score=score)
    blank = jax.tree.map(jnp.zeros_like, (model, train))
    restored = checkpoint.restore(f"{out}-checkpoints", *blank, "best")
    found = sharding.put((restored.model, restored.train["opt"]), sharding.replicated(mesh))  # lies so already: stays
    assert restored.step == 10 and jax.process_count() == 2, (restored.step, jax.process_count())
    if sharding.is_main():
        np.savez(f"{out}.npz", *jax.tree.leaves((log, sharding.to_host(found))))


if __name__ == "__main__":
    main(sys.argv[1])
