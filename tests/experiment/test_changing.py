"""Schedules, bank, momentum queue, parts of a batch, remat: fields with an effect, and state that lasts."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import speck
from killing import killed_after_a_save, restored
from reading import same

from clead_jax import config, main
from clead_jax.core import numerics
from clead_jax.experiment import builders, stages, terms, train
from clead_jax.experiment.context import open_random
from clead_jax.losses.parse import Now
from clead_jax.training import state as states

NUMBERS = "eps=steps(values=0.1:0.05,epochs=2),steps=linear(start=2,end=1,epochs=2)"
NUMBERS += ",temperature=steps(values=0.1:0.5,epochs=2),strength=linear(start=1,end=0,epochs=2)"
DRAWN = "augmented(resized_crop=0.5),pgd"


@pytest.fixture(autouse=True)
def rolled_loops(monkeypatch):
    monkeypatch.setattr(importlib.import_module("clead_jax.attacks.run"), "MOST_UNROLLED", 0)


def quickstart(**settings):
    cfg = config.preset("configs/", "quickstart.py")
    cfg.model.update({"backbone": "flat", "width": 16, "projection_dim": 4})
    cfg.train_attack.steps = 2
    cfg.pretrain.update({"batch_size": 16, "epochs": 4, "views": DRAWN} | settings)
    return cfg


@functools.cache
def compiled(settings):
    """-> the state before the first step of phase 1 on random digits, and a step."""
    cfg = quickstart(**dict(settings))
    run = open_random(cfg, 16)
    stage = stages.build(cfg, "pretrain", run.network, 16, run.dataset.image_shape)
    begun, rest = train.begin(stage, jax.jit(run.fresh)(numerics.key(0)))
    batch = states.Batch(run.splits.train.images[:16], run.splits.train.labels[:16], np.arange(16))
    return begun, jax.jit(lambda state: stage.step(state, states.Frozen(rest), batch, stage.key)[0])


def after(*numbers, **settings):
    """The state after these steps; an epoch is one step."""
    state, step = compiled(tuple(settings.items()))
    for number in numbers:
        state = step(state.replace(step=jnp.int32(number)))
    assert step._cache_size() == 1  # no schedule compiles again
    return jax.tree.map(np.asarray, state)


def near(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: bool(np.allclose(x, y, atol=2e-6)), a.params, b.params))


def test_scheduled_numbers_are_those_of_a_config_that_names_them():
    """Radius, number of steps, temperature of the loss, strength of an augmentation: before and after they change."""
    later = {"views": "augmented(resized_crop=1),pgd(eps=0.05,steps=1)", "loss": "info_nce(temperature=0.5)"}
    assert near(after(0, schedules=NUMBERS), after(0)) and near(after(2, schedules=NUMBERS), after(2, **later))
    assert not near(after(2), after(2, **later))


def test_bank_and_momentum_encoder_are_state_of_the_stage():
    new = after(0, 1, bank=24, key_momentum=0.5)
    assert set(new.extra) == {"bank", "momentum"} and new.extra["bank"]["z"].shape == (24, 4)
    assert new.extra["bank"]["written"] == 48 and np.abs(new.extra["bank"]["z"]).min(-1).max() > 0
    assert not near(new, after(0, 1))


def test_weights_of_terms_follow_a_schedule():
    cfg = config.preset("configs/", "margin_supcon_digits.py")
    cfg.joint.update({"weight_margin": 0.0, "schedules": "weight_margin=linear(start=0,end=2),margin=linear(end=1)"})
    stages.check(cfg)
    assert set(terms.terms(cfg, "joint")) == {"ce", "supcon"}
    found = terms.terms(cfg, "joint", Now({"weight_margin": 0.5, "margin": 0.25}))
    assert found["margin"][0] == 0.5
    z, labels = jax.random.normal(jax.random.key(0), (4, 2, 3)), jnp.array([0, 0, 1, 1])
    cfg.joint.margin = 0.25
    named = terms.terms(cfg, "joint", Now({"weight_margin": 0.5}))
    for term in ("margin", "supcon"):  # which has a margin of its own, 0
        assert float(found[term][1](z, None, labels)) == pytest.approx(float(named[term][1](z, None, labels)))


def traced(cfg, name):
    """The step of a stage as text, for random digits on all devices."""
    run = open_random(cfg, 16)
    stage = run.every_stage[name]
    begun, rest = jax.eval_shape(lambda: train.begin(stage, run.fresh(numerics.key(0))))
    images = jax.ShapeDtypeStruct((16, *run.dataset.image_shape), np.uint8)
    batch = states.Batch(images, *(jax.ShapeDtypeStruct((16,), np.int32),) * 2)
    return str(jax.make_jaxpr(stage.step)(begun, states.Frozen(rest), batch, jax.eval_shape(lambda: stage.key)))


def test_accumulate_and_remat_reach_the_step_and_the_network():
    cfg = quickstart(accumulate=4)
    assert "remat" in traced(cfg, "pretrain")
    cfg.model.update({"remat": True, "backbone": "tiny"})
    run = open_random(cfg, 16)
    fields = builders.network_fields(cfg, run.dataset, run.splits.train)
    assert builders.network(fields).remat


@pytest.mark.parametrize("kind", ["pretrain", "supervised"])
def test_each_device_may_have_batch_statistics_of_its_own(kind):
    """The field reaches the step of either kind of stage."""
    cfg = quickstart()
    cfg.supervised.batch_size, cfg.stages = 16, kind
    found = {}
    for synced in (True, False):
        cfg[kind].sync_batch_stats = synced
        found[synced] = "shard_map" in traced(cfg, kind)
    assert found == {True: False, False: True}


@pytest.mark.slow
def test_all_of_it_survives_a_kill_to_the_bit(tmp_path, monkeypatch):
    settings = {"stages": "pretrain", "model__backbone": "flat", "pretrain__start": "scratch", "pretrain__bank": 40}
    settings |= {"pretrain__key_momentum": 0.5, "pretrain__accumulate": 2, "pretrain__batch_size": 16}
    settings |= {"pretrain__loss": "info_nce(beta=1,tau_plus=0.1,hardest=20)", "train_attack__steps": 2}
    settings |= {"pretrain__schedules": "eps=linear(start=0,end=0.1,epochs=1),steps=steps(values=1:2,epochs=1)"}
    start = lambda name: main.main(speck.command(tmp_path / name, views="clean,pgd", **settings))
    start("straight")
    with killed_after_a_save(monkeypatch):
        start("killed")
    start("killed")
    straight, killed = (restored(tmp_path / name, "pretrain") for name in ("straight", "killed"))
    assert set(straight.train["extra"]) == {"bank", "momentum"}
    assert straight.train["extra"]["bank"]["written"] == 2 * 4 * 32
    assert same(jax.tree.map(np.asarray, straight.train), jax.tree.map(np.asarray, killed.train))
    assert same(straight.model, killed.model)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bank": -1}, "pretrain.bank is -1; it must not be negative"),
        ({"bank": 8, "loss": "triplet"}, "pretrain.bank is 8, but pretrain.loss 'triplet' reads none; known: info_nce"),
        ({"accumulate": 0}, "pretrain.accumulate is 0; it must be 1 or more"),
        (
            {"schedules": "tau=linear(end=1)"},
            "pretrain.schedules: tau: nothing here has such a number; what can change is",
        ),
        ({"schedules": "strength=linear(end=1)", "views": "clean,pgd"}, "strength: nothing here has such a number"),
        ({"schedules": "strength=linear(end=1)", "fade_every": 2}, "both set the strength; leave one out"),
        ({"schedules": "eps=linear(end=2)"}, "pretrain.schedules: eps is 2.0; under linf it lies in"),
        ({"schedules": "steps=linear(start=1,end=9)"}, r"steps is 9.0; it lies in \[0, 4\]"),
        ({"schedules": "temperature=linear(end=1)"}, r"temperature must lie in \(0, inf\), got 0.0"),
        ({"schedules": "eps=linear(end=0.1)", "views": "clean,augmented"}, "eps: nothing here has such a number"),
        ({"loss": "info_nce(tau_plus=1)"}, r"tau_plus must lie in \[0, 1\), got 1.0"),
    ],
)
def test_what_cannot_be_trained_is_one_line(fields, said):
    cfg = config.preset("configs/", "quickstart.py")
    cfg.pretrain.update({"views": DRAWN} | fields)
    with pytest.raises(ValueError, match=said) as caught:
        stages.check(cfg)
    assert "\n" not in str(caught.value)


def test_remat_needs_a_backbone_with_blocks_and_parts_divide_a_batch():
    cfg = quickstart()
    cfg.model.remat = True
    with pytest.raises(ValueError, match=r"model.remat is true, but the backbone 'flat' takes no argument remat"):
        stages.check(cfg)
    cfg.pretrain.accumulate = 4
    with pytest.raises(ValueError, match=r"must be divisible by the 8 devices, 4 times for pretrain.accumulate"):
        stages.check_batch(cfg, "pretrain", np.zeros(16, int), 10, 8)
