"""FLOPs against counts by hand; the benchmark's table and file. No time is asserted."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from clead_jax import benchmark, config
from clead_jax.core import sharding
from clead_jax.experiment import builders, context, targets, throughput
from clead_jax.models import flops
from clead_jax.reporting import compiled

CONFIG = """
from clead_jax import config

def get_config():
    cfg = config.base()
    cfg.data.name = "digits"
    cfg.model.update({"backbone": "tiny", "width": 4, "projection_dim": 8})
    cfg.train_attack.steps = 1
    cfg.views = "clean,fgsm"
    cfg.evaluation.update({"steps": 2, "attacks": "pgd"})
    cfg.pretrain.update({"ascend": "baseline"})
    return cfg
"""


def convolve(x, w, stride=1, padding=1, **more):
    return lax.conv_general_dilated(
        x, w, (stride, stride), [(padding, padding)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"), **more
    )


def tiny_net(weights, x):
    """[2, 6, 6, 3] -> conv 3x3 to 5 -> conv 3x3 / 2 to 4 -> mean -> dense to 7."""
    x = jax.nn.relu(convolve(x, weights[0]))
    x = jax.nn.relu(convolve(x, weights[1], stride=2))
    return x.mean((1, 2)) @ weights[2]


TINY = ((jnp.ones((3, 3, 3, 5)), jnp.ones((3, 3, 5, 4)), jnp.ones((4, 7))), jnp.ones((2, 6, 6, 3)))
# Along one axis: six places of three taps, without the two on the border; then three places of three, without one.
FIRST, SECOND, DENSE = 2 * 2 * 16**2 * 3 * 5, 2 * 2 * 8**2 * 5 * 4, 2 * 2 * 4 * 7


def test_a_tiny_net_counts_as_by_hand():
    assert flops.count(tiny_net, *TINY) == FIRST + SECOND + DENSE


def test_gradients_count_as_their_forward():
    loss = lambda weights, x: tiny_net(weights, x).sum()
    whole = FIRST + SECOND + DENSE
    assert flops.count(jax.grad(loss, 1), *TINY) == 2 * whole  # an attack: the dense layer's output is needed too
    assert flops.count(jax.grad(loss, 0), *TINY) == 3 * whole - FIRST  # training: the pixels need no gradient


@pytest.mark.parametrize("case", [{"stride": 2, "padding": 0}, {"feature_group_count": 2}, {"rhs_dilation": (2, 2)}])
def test_a_convolution_counts_its_products_with_pixels(case):
    """Counted by adding up ones: convolving ones with ones gives the products of each output."""
    x = jnp.ones((2, 7, 7, 4))
    w = jnp.ones((3, 3, 4 // case.get("feature_group_count", 1), 6))
    products = float(convolve(x, w, **case).sum())
    assert flops.count(lambda x, w: convolve(x, w, **case), x, w) == 2 * products
    for argument in (0, 1):
        gradient = jax.grad(lambda x, w: (convolve(x, w, **case) ** 2).sum(), argument)
        assert flops.count(gradient, x, w) == 2 * 2 * products  # there and back


def test_loops_branches_and_batches_are_counted():
    a = jnp.ones((4, 4))
    once = 2 * 4**3
    assert flops.count(lambda a: lax.fori_loop(0, 5, lambda _, b: b @ a, a), a) == 5 * once
    assert flops.count(lambda a: lax.cond(a[0, 0] > 0, lambda: a @ a @ a, lambda: a @ a), a) == 2 * once
    assert flops.count(jax.vmap(jax.jit(lambda b: b @ b)), jnp.ones((3, 4, 4))) == 3 * once


def test_the_count_agrees_with_xla_on_a_resnet(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "matmul_rate", lambda *given: 1.0)
    run = context.open_random(_config(tmp_path), 8)
    counted, xla = throughput.environment(run, 0.0)["forward_flops"].values()
    assert xla is None or counted < xla < 1.3 * counted  # XLA adds elementwise work, much of so narrow a net


def test_the_known_shapes_need_no_data():
    cfg = config.base()
    cfg.data.data_dir = "/nowhere"
    dataset = builders.random_dataset(cfg, 12)
    assert dataset.train_images.shape == (12, 32, 32, 3) and dataset.num_classes == 10
    assert len(np.unique(dataset.train_images)) > 200


def test_a_step_goes_on_from_the_last():
    step = lambda state, frozen, index, key: (state + 1, {})
    call = throughput.repeated(step, 0, None, None, None)
    assert [call()[0] for _ in range(3)] == [1, 2, 3]


def test_timed_leaves_the_first_call_out():
    calls = []
    median, repeats = throughput.timed(lambda: calls.append(None), 0.0)
    assert len(calls) == repeats + 1 == throughput.FEWEST + 1 and median >= 0


def test_the_own_share_of_an_attack_is_the_time_of_a_model_that_costs_nothing(tmp_path, monkeypatch):
    """The calls that are timed: the linear model has no hidden layer, and both make all steps for every image."""
    seen = []
    attacked = throughput._attacked
    monkeypatch.setattr(
        throughput, "_attacked", lambda model, *rest: seen.append((model, rest)) or attacked(model, *rest)
    )
    monkeypatch.setattr(throughput, "timed", lambda call, seconds: (call() and len(seen), 1))
    found = list(throughput.own_shares(context.open_random(_config(tmp_path), 16), 0.0))
    assert found == [{"attack": "pgd", "own_share": 1 / 2}]
    (linear, (*_, early)), (model, _) = seen
    counts = [
        flops.count(of.classifier.forward, of.variables, np.zeros((1, 8, 8, 1), np.float32)) for of in (linear, model)
    ]
    assert counts[0] == 2 * 64 * 10 < counts[1] and early is False


def test_prints_a_table_and_writes_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(throughput, "SIZES", (64,))
    _config(tmp_path)
    out = tmp_path / "out.json"
    benchmark.main(["x", f"--config={tmp_path}/tiny.py", "--seconds=0.05", "--batch_size=12", f"--json={out}"])
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    lines = {line["what"]: line for line in found["lines"]}
    steps = [f"step {stage}" for stage in config.stages_of(config.base())]
    forms = ["pgd, one device", "pgd, sharded", "pgd, pmapped"]
    assert list(lines) == ["forward", "attack pgd", *steps, *forms]
    for name, line in lines.items():
        assert name in printed and line["batch"] == 16  # 12, rounded up to the 8 devices
        assert line["images_per_s"] > 0 and line["flops_per_s"] > 0 and math.isfinite(line["share_of_matmul"])
    assert found["devices"] == 8 and found["matmul_flops_per_s"]["float32"] > 0
    assert [each["batch"] for each in found["latency"]] == [1, 8, 64] and "latency of the forward pass" in printed
    assert [each["attack"] for each in found["savings"]] == ["pgd"]
    assert all(each["same_verdicts"] and each["passes"] <= each["without"] for each in found["savings"])
    assert "to the same verdict" in printed and "share of its time" in printed
    assert [each["attack"] for each in found["own_shares"]] == ["pgd"] and found["own_shares"][0]["own_share"] > 0
    table = [line for line in printed.splitlines() if not line.startswith("data: ")]
    assert str(tmp_path) not in out.read_text() and max(map(len, table)) <= 100

    forward = lines["forward"]["flops_per_image"]
    assert forward == found["forward_flops"]["counted"]
    assert lines["attack pgd"]["flops_per_image"] == pytest.approx(8 * forward)  # three gradients: the last point's too


@pytest.mark.parametrize("flag", ["--seconds=-1", "--seconds=soon", "--batch_size=-8", "--config.model.widht=4"])
def test_refuses_in_one_line(tmp_path, flag):
    _config(tmp_path)
    with pytest.raises(ValueError, match=flag.partition("=")[0].split(".")[-1].lstrip("-")) as caught:
        benchmark.main(["x", f"--config={tmp_path}/tiny.py", flag])
    assert "\n" not in str(caught.value)


def test_joins_a_cluster_if_told_to(tmp_path):
    _config(tmp_path)
    with pytest.raises(ValueError, match="cannot start --distributed"):
        benchmark.main(["x", f"--config={tmp_path}/tiny.py", "--distributed"])


def test_a_file_that_cannot_be_written_is_refused_before_measuring(tmp_path):
    _config(tmp_path)
    with pytest.raises(OSError, match="nowhere"):
        benchmark.main(["x", f"--config={tmp_path}/tiny.py", f"--json={tmp_path}/nowhere/out.json"])


def test_compiles_for_a_card_and_writes_what_it_found(tmp_path, capsys, monkeypatch):
    """The devices are eight of this machine's; everything but them is as for GPUs."""
    monkeypatch.setattr(targets, "mesh", lambda card, devices: sharding.data_mesh(jax.devices()[:devices]))
    _config(tmp_path)
    out = tmp_path / "compiled-tiny.json"
    flags = ["--compile_for=h200", "--devices=8", "--batch_size=16", "--only=pretrain,pgd", f"--json={out}"]
    benchmark.main(["x", f"--config={tmp_path}/tiny.py", *flags])
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert list(found["programs"]) == ["step pretrain", "attack pgd"] and found["devices"] == 8
    assert (found["card"], found["memory"], found["model"]["dtype"]) == ("h200", 141e9, "float32")
    assert "compiled for 8 x NVIDIA H200" in printed and str(tmp_path) not in out.read_text()
    step, attack = printed.split("\nattack pgd: ")
    assert ": fits" in step and " all-reduce (" in step and "largest" not in step
    assert "collectives: none" in attack and "float32 NHWC by XLA" in attack

    rows = [line.split(" | ") for line in compiled.table(tmp_path).splitlines()]
    assert [len(row) for row in rows] == 4 * [len(compiled.COLUMNS)]
    assert rows[2][:5] == ["| tiny", "step pretrain", "8 × NVIDIA H200", "16", "float32"] and rows[3][-2] == "none"


def test_the_table_of_compiled_programs(tmp_path):
    assert compiled.table(tmp_path) == ""
    told = {"batch": 512, "flops_per_image": 2e10, "error": "RESOURCE_EXHAUSTED: too much"}
    found = {"config": "big", "card": "h100", "description": "H100", "devices": 8, "memory": 8e10, "usable": 6e10}
    found |= {"model": {"dtype": "bfloat16"}, "programs": {"step pretrain": told}}
    (tmp_path / "compiled-big.json").write_text(json.dumps(found))
    assert "| big | step pretrain | 8 × H100 | 512 | bfloat16 | does not compile |" in compiled.table(tmp_path)
    need = {"arguments": 2**30, "temporaries": 63 * 2**30, "outputs": 0, "aliased": 0, "peak": 64 * 2**30}
    told = {"batch": 512, "flops_per_image": 2e10, "compile_seconds": 61.0, "memory": need, "largest_batch": 256}
    told |= {"collectives": {"all-reduce": {"count": 109, "bytes": 50 * 2**20, "small": 90}}, "convolutions": []}
    (tmp_path / "compiled-big.json").write_text(json.dumps(found | {"programs": {"step pretrain": told}}))
    assert compiled.table(tmp_path).endswith(
        "| 64 GiB, 86% | 63 GiB | no | 20 GFLOP | 109 all-reduce (90 small) of 50 MiB | 256 |"
    )
    (tmp_path / "compiled-other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"compiled-other.json holds nothing that benchmark --compile_for"):
        compiled.table(tmp_path)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--compile_for=h1000"], "no GPU 'h1000' is known to compile for; known: a100-40gb"),
        (["--compile_for=h100", "--devices=0"], "devices"),
        (["--devices=8"], "--devices goes with --compile_for=CARD"),
        (["--only=pretrain"], "--only goes with --compile_for=CARD"),
        (["--largest_batch"], "--largest_batch goes with --compile_for=CARD"),
        (["--compile_for=h100", "--distributed"], "needs no --distributed"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path, flags, said):
    _config(tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        benchmark.main(["x", f"--config={tmp_path}/tiny.py", *flags])
    assert "\n" not in str(caught.value)


def _config(folder):
    (folder / "tiny.py").write_text(CONFIG)
    scope: dict = {}
    exec(CONFIG, scope)
    return scope["get_config"]()
