"""MART, FAT, LAS-AT, AWP, train-mode attacks: as configs, each switch with an effect, and state that lasts.

All on eight fake devices, as every test.
"""

import functools
import importlib
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import speck
from killing import killed_after_a_save, restored
from reading import same

from clead_jax import config, main
from clead_jax.core import numerics
from clead_jax.experiment import stages
from clead_jax.experiment.context import open_random
from clead_jax.training import state as states

LAS_AT = "las_at(eps=0.05:0.1:2,step_size=0.02:0.04:2,steps=1:2,every=2,lr=0.5,attack=pgd(steps=1))"
PRESETS = ["mart", "fat:digits", "fat:trades-digits", "fat:mart-digits", "las_at:digits", "las_at:awp-digits"]
PRESETS += ["awp:digits", "awp:trades-digits", "pgd_at_rice:digits"]


@pytest.fixture(autouse=True)
def rolled_loops(monkeypatch):
    monkeypatch.setattr(importlib.import_module("clead_jax.attacks.run"), "MOST_UNROLLED", 0)


@functools.cache
def compiled(settings):
    """-> the state before the first step of a supervised stage on random digits, and a step."""
    cfg = config.preset("configs/", "quickstart.py")
    cfg.model.update({"backbone": "flat", "width": 4})
    cfg.train_attack.steps = 2
    cfg.supervised.update({"batch_size": 16, "attack": "training_pgd(steps=2)"} | dict(settings))
    run = open_random(cfg, 16)
    stage = stages.build(cfg, "supervised", run.network, 16, run.dataset.image_shape)
    fresh = jax.jit(run.fresh)(numerics.key(0))
    begun, rest = states.create(fresh, stage.trained, stage.tx, stage.extra)
    batch = states.Batch(run.splits.train.images[:16], run.splits.train.labels[:16], np.arange(16))
    return begun, jax.jit(lambda state: stage.step(state, states.Frozen(rest), batch, stage.key)[0].params)


def after_a_step(number=0, **settings):
    """The parameters after step `number`; an epoch is one step."""
    begun, step = compiled(tuple(settings.items()))
    return jax.tree.map(np.asarray, step(begun.replace(step=jnp.int32(number))))


@pytest.mark.parametrize(
    ("switch", "without_effect"),
    [
        ({"perturb": "awp(gamma=0.1)"}, {"perturb": "awp(gamma=0)"}),
        ({"strategy": "friendly(tau=0)"}, {"strategy": "friendly(tau=2)"}),
        (
            {"strategy": LAS_AT},
            {"strategy": "las_at(eps=0.1:0.1:1,step_size=0.04:0.04:1,steps=2:2,attack=pgd(steps=1))"},
        ),
        ({"attack_batch_norm": "train"}, {"attack": "pgd"}),
        ({"attack": "training_pgd(steps=2,start=normal)"}, {"attack": "training_pgd(steps=2,start=uniform)"}),
    ],
)
def test_a_switch_has_an_effect_and_its_limit_has_none(switch, without_effect):
    plain = after_a_step()
    assert not same(after_a_step(**switch), plain)
    assert same(after_a_step(**without_effect), plain)


def test_perturbation_and_patience_follow_the_epoch():
    assert same(after_a_step(2, perturb="awp(gamma=0.1,start=3)"), after_a_step(2))
    assert not same(after_a_step(3, perturb="awp(gamma=0.1,start=3)"), after_a_step(3))
    assert same(after_a_step(4, strategy="friendly(tau=0,later=2:4)"), after_a_step(4, strategy="friendly(tau=2)"))


@pytest.mark.slow
def test_strategy_network_and_average_survive_a_kill_to_the_bit(tmp_path, monkeypatch):
    settings = {
        "stages": "supervised",
        "model__backbone": "flat",
        "supervised__strategy": LAS_AT,
        "supervised__average": "ema(decay=0.5)",
    }
    settings |= {"supervised__attack": "training_pgd(steps=2)", "supervised__perturb": "awp"}
    start = lambda name: main.main(speck.command(tmp_path / name, **settings))
    start("straight")
    with killed_after_a_save(monkeypatch):
        start("killed")
    start("killed")
    straight, killed = (restored(tmp_path / name, "supervised") for name in ("straight", "killed"))
    assert set(straight.train["extra"]) == {"mean", "taken", "strategy"}
    assert same(jax.tree.map(np.asarray, straight.train), jax.tree.map(np.asarray, killed.train))
    assert same(straight.model, killed.model)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_can_be_trained(preset):
    file, _, variant = preset.partition(":")
    get_config = runpy.run_path(f"configs/{file}.py")["get_config"]
    for cfg in (get_config(), get_config(variant or "digits")):
        stages.check(cfg)
        assert stages.trained_on(cfg, cfg.defended) <= {"clean", "pgd"}
    with pytest.raises(ValueError, match=rf"configs/{file}.py:nothing: it can be cifar10"):
        get_config("nothing")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"strategy": "friendly"}, "strategy is 'friendly', which sets training_pgd alone: write attack=training_pgd"),
        ({"strategy": "friendly", "attack": ""}, "strategy is 'friendly', which sets training_pgd alone"),
        ({"strategy": "las_at", "attack": "training_pgd"}, "may ask for 14 steps, but the attack training_pgd makes 4"),
        ({"strategy": "las_at(attack=no)", "attack": "training_pgd(steps=14)"}, "unknown attack 'no'"),
        ({"strategy": "hard"}, "unknown strategy 'hard': known: friendly, las_at"),
        ({"perturb": "sam"}, "unknown perturbation 'sam'; known: awp"),
        ({"loss": "mart"}, "mart needs a clean and an attacked view, not 1: write views=clean,pgd"),
        ({"attack_batch_norm": "both"}, "attack_batch_norm is 'both'; it can be eval, train"),
        ({"attack_batch_norm": "train", "ascend": "baseline"}, "attack_batch_norm is 'train', which needs"),
        ({"schedule": "steps(epochs=5:3)"}, "write rising epochs"),
    ],
)
def test_what_cannot_be_trained_is_one_line(fields, said):
    cfg = config.preset("configs/", "pgd_at.py", "digits")
    cfg.supervised.update(fields)
    with pytest.raises(ValueError, match=said) as caught:
        stages.check(cfg)
    assert "\n" not in str(caught.value)
