"""One device, eight devices and two processes must be the same program."""

import functools
import os
import pathlib
import re
import socket
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import parallel_program
import pytest

from clead_jax.core import hlo, sharding
from clead_jax.core.sharding import REPLICATED, SPLIT
from clead_jax.training import checkpoint

close = functools.partial(chex.assert_trees_all_close, rtol=2e-5, atol=1e-6)
COLLECTIVE = re.compile(r"all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast")


def _mesh(devices):
    return sharding.data_mesh(jax.devices()[:devices])


def test_put_lays_out_and_to_host_gathers():
    x, keys = np.arange(16.0).reshape(8, 2), jax.random.split(jax.random.key(0), 8)
    mesh = _mesh(8)
    split, whole = sharding.put((x, x), sharding.split(mesh)), sharding.put({"a": x}, sharding.replicated(mesh))
    assert [shard.data.shape for shard in split[0].addressable_shards] == [(1, 2)] * 8
    assert [shard.data.shape for shard in whole["a"].addressable_shards] == [(8, 2)] * 8
    gathered = sharding.to_host({"split": split, "whole": whole, "numpy": x})
    for leaf in jax.tree.leaves(gathered):
        assert isinstance(leaf, np.ndarray) and np.array_equal(leaf, x)
    assert np.array_equal(jax.random.key_data(sharding.put(keys, sharding.split(mesh))), jax.random.key_data(keys))


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw"])
def test_attacks_are_the_same_bits_on_any_devices(name):
    attack_fn, args = functools.partial(parallel_program.attack, name), parallel_program.example()
    alone = np.asarray(jax.jit(attack_fn)(*args))
    assert np.abs(alone - args[1]).max() > 0.01
    for devices in (1, 2, 8):
        spread = sharding.sharded(attack_fn, _mesh(devices), parallel_program.ATTACK_SPECS)(*args)
        assert len(spread.sharding.device_set) == devices
        assert np.array_equal(alone, np.asarray(spread))
    mapped = sharding.pmapped(attack_fn, parallel_program.ATTACK_SPECS)(*args)
    assert np.array_equal(alone, np.asarray(mapped))


@pytest.mark.parametrize("name", ["fgsm", "pgd", "cw"])
def test_an_attack_on_labels_holds_no_collective(name):
    attack_fn = functools.partial(parallel_program.attack, name)
    spread = sharding.sharded(attack_fn, _mesh(8), parallel_program.ATTACK_SPECS)
    assert not COLLECTIVE.search(spread.lower(*parallel_program.example()).compile().as_text())


def test_a_contrastive_attack_takes_its_anchors_whole():
    """Every row's negatives are all rows' anchors: right on any devices, without communication, if REPLICATED."""
    variables, x, _, _ = parallel_program.example()
    anchors = parallel_program.NET.apply(variables, x, train=False)

    def ascend(x, own, anchors):
        def objective(x):
            z = parallel_program.NET.apply(variables, x, train=False)
            return (jax.nn.logsumexp(z @ anchors.T, axis=1) - (z * own).sum(axis=1)).sum()

        return x + 0.1 * jnp.sign(jax.grad(objective)(x))

    args, specs = (x, anchors, anchors), (SPLIT, SPLIT, REPLICATED)
    alone, spread = jax.jit(ascend)(*args), sharding.sharded(ascend, _mesh(8), specs)
    assert np.array_equal(alone, spread(*args)) and np.array_equal(alone, sharding.pmapped(ascend, specs)(*args))
    assert not COLLECTIVE.search(spread.lower(*args).compile().as_text())
    gathering = sharding.sharded(ascend, _mesh(8), (SPLIT, SPLIT, SPLIT)).lower(*args).compile()
    assert COLLECTIVE.search(gathering.as_text())  # the pattern does find what it looks for


def test_anchors_made_inside_a_program_are_gathered_once():
    """However many steps an attack makes; without saying so XLA exchanges something in each of them."""
    variables, x, _, _ = parallel_program.example()
    embed = lambda x: parallel_program.NET.apply(variables, x, train=False)

    def exchanged(whole, steps):
        def ascend(x):
            anchors = whole(embed(x))
            score = lambda x: jax.nn.logsumexp(embed(x) @ anchors.T, axis=1).sum()
            for _ in range(steps):
                x = x + 0.1 * jnp.sign(jax.grad(score)(x))
            return x

        program = sharding.sharded(ascend, _mesh(8), (SPLIT,)).lower(x).compile()
        return sum(each.count for each in hlo.collectives(program.as_text()).values())

    whole = sharding.gathered_once(_mesh(8))
    assert exchanged(whole, 1) == exchanged(whole, 3) == 1
    assert exchanged(lambda anchors: anchors, 3) >= 3
    alone = np.ones((4, 2))
    assert sharding.gathered_once(None)(alone) is sharding.gathered_once(_mesh(1))(alone) is alone


def test_training_is_the_same_on_any_devices():
    """Loss, gradients, BatchNorm statistics and the updated state, over two steps on attacked images."""
    one = parallel_program.program(_mesh(1))
    close(one, parallel_program.program(_mesh(8)))
    (_, loss, _, first, _), (_, next_loss, _, second, _) = one
    assert next_loss < loss and not np.allclose(*jax.tree.leaves((first["batch_stats"], second["batch_stats"]))[::2])


def _start(process, port, out):
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(process),
    }
    command = [sys.executable, pathlib.Path(parallel_program.__file__), out]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_processes_are_one_program(tmp_path):
    """Two processes of two devices each, over gloo, against one process with four; then their checkpoint, read here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [_start(i, port, tmp_path / "out") for i in range(2)]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output[-2000:]
    finally:
        for process in processes:
            process.kill()
    log = parallel_program.program(_mesh(4))
    *_, variables, opt = log[-1]
    with np.load(tmp_path / "out.npz") as found:
        close(jax.tree.leaves((log, (variables, opt))), list(found.values()))
        assert np.array_equal(found["arr_0"], log[0][0])  # x_adv of the first step: bit for bit
    assert checkpoint.steps(tmp_path / "out-checkpoints") == [10, 30, 40]
    close(checkpoint.restore_model(tmp_path / "out-checkpoints")[0], variables)


def test_distributed_without_a_cluster_is_one_line():
    sharding.initialize(distributed=False)
    with pytest.raises(ValueError, match=r"^cannot start --distributed: [^\n]*JAX_COORDINATOR_ADDRESS[^\n]*$"):
        sharding.initialize(distributed=True)
