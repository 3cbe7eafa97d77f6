"""Programs of a config compiled and not run: here for eight CPU devices, and for GPUs where jax's plugin is there."""

import functools

import jax
import pytest
from test_targets import with_plugin

from clead_jax import config
from clead_jax.core import sharding
from clead_jax.experiment import compiling, targets
from clead_jax.experiment.context import open_random
from clead_jax.models import flops


def tiny(**settings):
    cfg = config.base()
    cfg.data.name = "digits"
    cfg.model.update({"backbone": "tiny", "width": 4, "projection_dim": 8})
    cfg.train_attack.steps = 1
    cfg.views = "clean,fgsm"
    cfg.evaluation.update({"steps": 2, "attacks": "fgsm,pgd"})
    cfg.pretrain.update({"ascend": "baseline", **settings})
    return cfg


@functools.cache
def opened():
    return open_random(tiny(), 16, sharding.data_mesh())


def test_every_stage_the_forward_pass_and_every_attack():
    steps = [f"step {name}" for name in config.stages_of(config.base())]
    assert list(compiling.programs(opened())) == [*steps, "forward", "attack fgsm", "attack pgd"]


def test_only_some_of_them():
    run = opened()
    assert list(compiling.chosen(run, "pgd,pretrain")) == ["attack pgd", "step pretrain"]
    assert list(compiling.chosen(run, "")) == list(compiling.programs(run))
    with pytest.raises(ValueError, match="--only: no program is called 'pretrian'; known: step baseline, "):
        compiling.chosen(run, "pgd,pretrian")


def test_a_step_is_told_with_its_memory_and_what_devices_send():
    run = opened()
    program = compiling.programs(run)["step pretrain"]()
    told = compiling.report(program, run.mesh)
    images, weights = (
        1293 * 64,
        4 * sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(run.fresh, jax.random.key(0)))),
    )
    need = told["memory"]
    assert need["arguments"] > images + 2 * weights  # all images that there are to train on; weights, frozen ones
    assert need["peak"] == need["arguments"] + need["temporaries"] + need["outputs"] and need["aliased"] > weights / 2
    assert told["collectives"]["all-reduce"]["bytes"] > weights / 2 and told["batch"] == 16
    assert {each["dtype"] for each in told["convolutions"]} == {"f32"}


def test_an_attack_on_labels_sends_nothing_and_costs_what_it_says():
    run = opened()
    one = flops.count(run.classifier.forward, jax.eval_shape(run.fresh, jax.random.key(0)), _images(1, run))
    for what, passes in (("forward", 1), ("attack pgd", 2)):
        told = compiling.report(compiling.programs(run)[what](), run.mesh)
        assert told["collectives"] == {} and told["batch"] == 16
        assert told["flops_per_image"] == pytest.approx(passes * one, rel=0.01)


def _images(size, run):
    return jax.ShapeDtypeStruct((size, *run.dataset.image_shape), "float32")


def test_a_program_that_cannot_be_compiled_says_why():
    class Refusing:
        def lower(self, lowering_platforms):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: too much\nand more")

    told = compiling.report(compiling.Program(4, 8, Refusing()), sharding.data_mesh())
    assert told == {"batch": 4, "flops_per_image": 2.0, "error": "RESOURCE_EXHAUSTED: too much"}


def test_the_largest_batch_is_the_last_that_fits(monkeypatch):
    monkeypatch.setattr(compiling, "report", lambda program, mesh: {"memory": {"peak": 1000 * program.batch}})
    monkeypatch.setattr(
        compiling, "programs", lambda run: {"forward": lambda: compiling.Program(run.eval_batch, 1, None)}
    )
    assert compiling.largest_batch(tiny(), "forward", 16, sharding.data_mesh(), 101_000) in (96, 88)
    refused = {"error": "INTERNAL: broken"}
    monkeypatch.setattr(compiling, "report", lambda program, mesh: refused)
    with pytest.raises(ValueError, match="forward with a batch of 16: INTERNAL: broken"):
        compiling.largest_batch(tiny(), "forward", 16, sharding.data_mesh(), 101_000)


def test_devices_that_cannot_share_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"batch_size is 20; it must be divisible by the 8 devices"):
        open_random(tiny(), 20, sharding.data_mesh())
    assert open_random(tiny(), 20).eval_batch == 24  # only to be timed: rounded up


@with_plugin
@pytest.mark.parametrize("what", ["attack fgsm", "attack pgd"])
def test_on_gpus_too_an_attack_on_labels_sends_nothing(what):
    mesh = targets.mesh(targets.card("a100-40gb"), 8)
    told = compiling.report(compiling.programs(open_random(tiny(), 16, mesh))[what](), mesh)
    assert told["collectives"] == {} and told["memory"]["temporaries"] > 0


@with_plugin
def test_a_step_compiled_for_gpus():
    mesh = targets.mesh(targets.card("h100"), 2)
    told = compiling.report(compiling.programs(open_random(tiny(), 16, mesh))["step pretrain"](), mesh)
    assert told["collectives"]["all-reduce"]["count"] > 0
    assert {each["by"] for each in told["convolutions"]} == {"cuDNN"}
