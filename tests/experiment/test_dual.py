"""ACL, DynACL and its post-stage, AIR: what their switches change, and that their state lasts.

All on eight fake devices, as every test.
"""

import functools
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import speck
from killing import killed_after_a_save
from reading import same

from clead_jax import main
from clead_jax.core import numerics
from clead_jax.experiment import builders, stages, train
from clead_jax.experiment.context import open_random
from clead_jax.experiment.label_use import label_use
from clead_jax.training import checkpoint, encoding
from clead_jax.training import state as states

PRESETS = ["acl:digits", "acl:a2s-digits", "acl:a2a-digits", "acl:s2s-digits", "dynacl:digits", "dynacl:plus-digits"]
PRESETS += ["air:digits", "air:paper-digits", "air:plus-digits", "acl:ds", "dynacl:plus", "air:plus"]
VIEWS = "clean,augmented,pgd,pgd"  # soon compiled
PASSES = {"acl:ds": 14, "acl:a2s": 7, "acl:a2a": 12, "acl:s2s": 2, "dynacl:plain": 14, "air:released": 15}


def preset(name):
    file, _, variant = name.partition(":")
    return runpy.run_path(f"configs/{file}.py")["get_config"](variant)


@functools.cache
def after_a_step(number=0, **settings):
    """The state after one step of DynACL on random digits."""
    cfg = preset("dynacl:digits")
    cfg.model.update({"backbone": "speck", "width": 4, "projection_dim": 4})
    cfg.train_attack.steps = 1
    cfg.dynacl.update({"batch_size": 16, "warmup_epochs": 0, "epochs": 4, "fade_every": 1, "views": VIEWS} | settings)
    run = open_random(cfg, 16)
    stage = run._built("dynacl")
    state, rest = train.begin(stage, run.fresh(numerics.key(0)))
    batch = states.Batch(run.splits.train.images[:16], run.splits.train.labels[:16], np.arange(16))
    new, _ = jax.jit(stage.step)(state.replace(step=jnp.int32(number)), states.Frozen(rest), batch, stage.key)
    return jax.tree.map(np.asarray, new)


@pytest.mark.parametrize(
    "switch",
    [
        {"encoding": "together"},
        pytest.param({"ascend": "contrastive"}, marks=pytest.mark.slow),
        pytest.param({"loss": "acl(shift=0,keys=true)"}, marks=pytest.mark.slow),
        pytest.param({"loss": "acl(shift=0.6667,keys=false)"}, marks=pytest.mark.slow),
        pytest.param({"fade_every": 0}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_switch_changes_the_step(switch):
    backbone = lambda state: state.params["backbone"]
    assert not same(backbone(after_a_step(2, **switch)), backbone(after_a_step(2)))


def test_both_copies_of_batchnorm_and_the_momentum_encoder_move():
    new = after_a_step(2)
    own, others = (
        {p: stats[p] for p in ("backbone", "projector")} for stats in (new.batch_stats, new.batch_stats["clean_norms"])
    )
    assert not same(own, others)
    assert not same(new.params["clean_norms"]["backbone"]["BatchNorm_0"], new.params["backbone"]["BatchNorm_0"])
    kept = new.extra["momentum"]
    assert not same(kept["params"]["backbone"], new.params["backbone"])
    assert jax.tree.structure(kept["batch_stats"]) == jax.tree.structure(new.batch_stats)


def command(workdir, steps, **more):
    own = {"batch_size": 16, "warmup_epochs": 0}
    settings = {f"{stage}__{name}": v for stage in ("acl", "dynacl", "assign", "trades") for name, v in own.items()}
    settings |= {"dynacl__epochs": 2, "dynacl__fade_every": 1, "dynacl__views": VIEWS}
    settings |= {"assign__epochs": 1, "trades__epochs": 2}
    return speck.command(workdir, "configs/dynacl.py:plus-digits", stages=steps, **settings | more)


@pytest.mark.slow
def test_dynacl_with_its_post_stage_survives_kills_to_the_bit_and_uses_no_labels(tmp_path, monkeypatch):
    chain = "dynacl,assign,trades"
    main.main(command(tmp_path / "straight", chain))
    for upto in ("dynacl", "dynacl", chain, chain):  # after each of two epochs, after the head, between two epochs
        with killed_after_a_save(monkeypatch):
            main.main(command(tmp_path / "killed", upto))
    main.main(command(tmp_path / "killed", chain))
    for stage in chain.split(","):
        read = lambda name, stage=stage, **of: weights(tmp_path / name, stage, **of)
        assert same(read("straight"), read("killed"))
        assert encoding.NORMS in read("straight")["params"]
    of = {"name": "momentum"}
    assert same(weights(tmp_path / "straight", "dynacl", **of), weights(tmp_path / "killed", "dynacl", **of))
    slow, assigned = weights(tmp_path / "straight", "dynacl", **of), weights(tmp_path / "straight", "assign")
    assert same(assigned["params"]["backbone"], slow["params"]["backbone"])
    assert same(assigned["batch_stats"], slow["batch_stats"])
    tuned = weights(tmp_path / "straight", "trades")
    assert not same(tuned["params"]["clean_norms"]["backbone"], slow["params"]["clean_norms"]["backbone"])
    cfg = preset("dynacl:plus-digits")
    assert label_use(cfg, "trades") == [] and label_use(cfg, "probe") == ["probe"]


def weights(workdir, stage, **of):
    return checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), "latest", of.get("name", ""))[0]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_can_be_trained(name):
    cfg = preset(name)
    stages.check(cfg)
    first = cfg.stages.split(",")[1]
    assert label_use(cfg, first) == [] and stages.trained_on(cfg, first) <= {"clean", "augmented", "pgd"}


@pytest.mark.parametrize("name", PASSES)
def test_cost_is_as_published(name):
    cfg = preset(name)
    stage = cfg.stages.split(",")[1]
    cfg.model.update({"backbone": "speck", "width": 4})
    assert open_random(cfg, 16)._built(stage).passes == PASSES[name]


@pytest.mark.parametrize("file", ["acl", "dynacl", "air"])
def test_a_variant_that_is_none_is_one_line(file):
    with pytest.raises(ValueError, match=rf"configs/{file}.py:nothing: it can be cifar10"):
        preset(f"{file}:nothing")


@pytest.mark.parametrize(
    ("stage", "fields", "said"),
    [
        (
            "acl",
            {"views": "clean,clean", "loss": "info_nce(pairing=all)", "ascend": "contrastive"},
            "'dual': some views must",
        ),
        ("acl", {"trains": "projector"}, "the backbone is to be trained"),
        ("acl", {"average": "ema"}, "acl.average is 'ema' with encoding 'dual'"),
        ("acl", {"views": "clean,clean,pgd,pgd(steps=1)"}, "two views must be attacked, and alike"),
        ("acl", {"views": "clean,pgd,pgd"}, "two views must not be attacked"),
        ("acl", {"starts": "pgd"}, "acl.starts: 'pgd' is not one of clean, augmented"),
        ("acl", {"fade_every": -1}, "acl.fade_every is -1; it must not be negative"),
        ("dynacl", {"key_momentum": 1.0}, "dynacl.key_momentum is 1.0; it lies in"),
        ("dynacl", {"loss": "acl(keys=false)"}, ""),
        ("probe", {"start": "acl:momentum"}, "the weights of acl are latest, best"),
        (
            "probe",
            {"pseudo_labels": "nobody"},
            "probe.pseudo_labels is 'nobody'; it can be empty: true labels, or one of",
        ),
        ("probe", {"encoding": "dual"}, "'dual': some views must be attacked and some not"),
    ],
)
def test_what_cannot_be_trained_is_one_line(stage, fields, said):
    cfg = preset("dynacl:digits")
    cfg.stages = "baseline,acl,dynacl,probe"
    cfg[stage].update(fields)
    if not said:
        return stages.check(cfg)
    with pytest.raises(ValueError, match=said) as caught:
        stages.check(cfg)
    assert "\n" not in str(caught.value)
