"""A run is the same under any of JAX's settings; it knows the field's names, and what has nothing to learn from."""

import jax
import numpy as np
import pytest
import speck

from clead_jax import config, main
from clead_jax.experiment import builders, planning, stages
from clead_jax.training import checkpoint

FLAGS = {
    "jax_default_prng_impl": "rbg",
    "jax_enable_x64": True,
    "jax_threefry_partitionable": False,
    "jax_numpy_dtype_promotion": "strict",
    "jax_numpy_rank_promotion": "raise",
}


@pytest.mark.slow
def test_settings_of_jax_change_no_bit_of_a_run(tmp_path):
    def run(name):
        main.main(speck.command(tmp_path / name, stages="baseline,pretrain,evaluate", defended="baseline"))
        folder = str(tmp_path / name)
        weights = [checkpoint.restore_model(builders.checkpoint_dir(folder, s), 4)[0] for s in ("baseline", "pretrain")]
        with np.load(tmp_path / name / "evaluation" / "per_example.npz") as stored:
            return jax.tree.leaves(weights), dict(stored)

    expected = run("usual")
    before = {name: getattr(jax.config, name) for name in FLAGS}
    try:
        for name, value in FLAGS.items():
            jax.config.update(name, value)
        found = run("other")
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
    assert len(found[0]) == len(expected[0]) and found[1].keys() == expected[1].keys()
    assert all(np.array_equal(a, b) for a, b in zip(found[0], expected[0], strict=True))
    assert all(np.array_equal(found[1][name], expected[1][name]) for name in expected[1])


def test_names_as_the_field_writes_them():
    cfg = config.base()
    cfg.views, cfg.validation.attack, cfg.supervised.attack = "clean,PGD,C&W", "PGD-10", "PGD-7"
    cfg.evaluation.attacks, cfg.evaluation.distances = "FGSM,PGD-20,AutoAttack(version=plus)", "CW-L2(steps=5)"
    cfg.evaluation.norm, cfg.evaluation.eps, cfg.train_attack.norm = "L2", 0.5, "Linf"
    stages.check(cfg)
    assert (cfg.views, cfg.validation.attack, cfg.supervised.attack) == (
        "clean,pgd,cw",
        "pgd(steps=10)",
        "pgd(steps=7)",
    )
    assert planning.asked_for(cfg) == (["fgsm", "pgd(steps=20)"], True, "plus")
    assert cfg.evaluation.distances == "cw_l2(steps=5)"
    assert (cfg.evaluation.norm, cfg.train_attack.norm) == ("l2", "linf")


LABELS = np.arange(64) % 4


@pytest.mark.parametrize(
    ("stage", "fields", "labels", "said"),
    [
        ("pretrain", {"batch_size": 1}, LABELS, "pretrain.batch_size is 1: there are no negatives"),
        ("pretrain", {"batch_size": 1, "pairing": "all"}, LABELS, "no negatives"),
        ("joint", {"batch_size": 1}, LABELS, "joint.batch_size is 1: there are no negatives"),
        ("supervised", {"batch_size": 1, "ascend": "contrastive"}, LABELS, "no negatives"),
        ("pretrain", {"batch_size": 8, "positives": "class"}, 0 * LABELS, "all images are of one class"),
        ("pretrain", {"batch_size": 8, "loss": "supcon"}, 0 * LABELS, "all images are of one class"),
        ("joint", {"batch_size": 8}, 0 * LABELS, "all images are of one class"),
        ("pretrain", {"batch_size": 8}, 0 * LABELS, ""),
        ("supervised", {"batch_size": 1}, LABELS, ""),
        ("joint", {"batch_size": 1, "weight_supcon": 0.0, "weight_margin": 0.0}, LABELS, ""),
    ],
)
def test_a_batch_without_negatives_is_refused(stage, fields, labels, said):
    cfg = config.base()
    cfg[stage].update(fields)
    if not said:
        stages.check_batch(cfg, stage, labels, 4, 1)
        return
    with pytest.raises(ValueError, match=said):
        stages.check_batch(cfg, stage, labels, 4, 1)


@pytest.mark.parametrize(
    ("section", "field"), [("baseline", "weight_decay"), ("evaluation", "eps"), ("joint", "margin")]
)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_config_file_cannot_hold_what_is_no_number(section, field, value):
    with pytest.raises(ValueError, match=f"{field}: .* is no number"):
        config.base()[section][field] = value
