"""Stages that learn from a frozen teacher, and RoCL: what their switches change, and that it lasts.

All on eight fake devices, as every test.
"""

import functools
import shutil

import jax
import numpy as np
import pytest
import speck
from killing import killed_after_a_save
from reading import lines, same

from clead_jax import config, main
from clead_jax.experiment import builders, stages
from clead_jax.experiment.label_use import label_use
from clead_jax.training import checkpoint
from clead_jax.training import state as states

QUICK = {"epochs": 2, "batch_size": 16, "warmup_epochs": 0}


def start(workdir, preset, **more):
    main.main(speck.command(workdir, f"configs/{preset}", **more))
    return workdir


def quick(stage, **more):
    return {f"{stage}__{name}": value for name, value in (QUICK | more).items()}


def weights(workdir, stage, part="backbone"):
    model = checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), "latest")[0]
    return {collection: model[collection].get(part) for collection in model}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A trained teacher and its student. Read only."""
    workdir = tmp_path_factory.mktemp("taught")
    return start(workdir, "deacl.py:digits", stages="simclr,deacl", **quick("simclr"), **quick("deacl"))


def test_the_student_moves_away_from_its_teacher_and_says_what_it_costs(taught):
    parts = ("backbone", "projector", "head")
    moved = {part: not same(weights(taught, "deacl", part), weights(taught, "simclr", part)) for part in parts}
    assert moved == {"backbone": True, "projector": False, "head": True}
    line = lines(taught, "deacl")[-1]
    assert line["passes"] == 64 * 3 and np.isfinite(line["loss"])  # one step of the attack, two views


def test_a_student_killed_and_resumed_ends_with_the_same_weights(taught, tmp_path, monkeypatch):
    shutil.copytree(taught, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints/deacl")
    again = lambda: start(tmp_path, "deacl.py:digits", stages="deacl", **quick("simclr"), **quick("deacl"))
    with killed_after_a_save(monkeypatch):
        again()
    assert len(lines(tmp_path, "deacl")) == 1
    again()
    assert same(weights(tmp_path, "deacl"), weights(taught, "deacl"))
    assert same(weights(tmp_path, "simclr"), weights(taught, "simclr"))


# --- switches, by one step of a stage ---------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1)).astype(np.uint8)


def one_step(preset, name, **own):
    """The weights after one step of a stage, and its metrics; the teacher is another net than the student."""
    cfg = config.preset("configs/", *preset.split(":"))
    for field, value in {key: value for key, value in speck.SETTINGS.items() if key.startswith("model")}.items():
        cfg.model[field.partition(".")[2]] = value
    cfg.train_attack.steps = 1
    cfg[name].update(own | {"warmup_epochs": 0})
    net = builders.network({**cfg.model, "num_classes": 10, "mean": (0.5,), "std": (0.5,)})
    stage = stages.build(cfg, name, net, 64, IMAGES.shape[1:])
    student, teacher = (net.init(jax.random.key(seed), IMAGES[:1] / 255.0, False) for seed in (0, 1))
    begun, rest = states.create(student, stage.trained, stage.tx)
    frozen = states.Frozen(rest, *(teacher if other else None for other in (stage.reference, stage.teacher)))
    batch = states.Batch(IMAGES, np.arange(16) % 10, np.arange(16))
    new, metrics = jax.jit(stage.step)(begun, frozen, batch, jax.random.key(2))
    assert np.isfinite(metrics["loss"][0])
    return jax.device_get({"params": new.params["backbone"], "batch_stats": new.batch_stats["backbone"]})


@functools.cache
def plain(preset, name):
    return one_step(preset, name)


@pytest.mark.parametrize(
    ("preset", "name", "switch"),
    [
        ("deacl.py:digits", "deacl", {"loss": "distillation(attacked_weight=0)"}),
        ("deacl.py:digits", "deacl", {"loss": "distillation(anchor=teacher)"}),
        pytest.param("deacl.py:digits", "deacl", {"ascend": "student"}, marks=pytest.mark.slow),
        pytest.param("deacl.py:digits", "deacl", {"compares": "projector"}, marks=pytest.mark.slow),
        pytest.param("deacl.py:digits", "deacl", {"encoding": "apart"}, marks=pytest.mark.slow),
        ("deacl.py:fare-digits", "fare", {"views": "pgd(objective=cosine_distance)"}),
        pytest.param("profeat.py:digits", "profeat", {"ascend": "teacher,teacher"}, marks=pytest.mark.slow),
        pytest.param(
            "profeat.py:digits", "profeat", {"views": "clean,pgd(objective=cosine_distance)"}, marks=pytest.mark.slow
        ),
        pytest.param("rocl.py:digits", "rocl", {"loss": "rocl(stop_keys=false)"}, marks=pytest.mark.slow),
        pytest.param("rocl.py:digits", "rocl", {"ascend": "contrastive"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_switch_changes_what_is_learned(preset, name, switch):
    assert not same(plain(preset, name), one_step(preset, name, **switch))


def test_with_adversarial_weight_0_deacl_is_clean_distillation():
    """What is left of the loss reads the clean view alone; BatchNorm sees it alone where views are apart."""
    zero = {"loss": "distillation(attacked_weight=0)", "encoding": "apart"}
    with_attack = one_step("deacl.py:digits", "deacl", **zero)
    clean = one_step("deacl.py:digits", "deacl", **zero, views="clean")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), with_attack["params"], clean["params"])


def test_nothing_of_these_methods_uses_labels():
    for preset, name in (
        ("deacl.py:fare", "fare"),
        ("deacl.py", "deacl"),
        ("profeat.py", "profeat"),
        ("rocl.py", "rocl"),
    ):
        cfg = config.preset("configs/", *preset.split(":"))
        assert label_use(cfg, name) == []
        assert stages.build(cfg, name, builders.network(FIELDS), 50_000, (32, 32, 3)).passes == PASSES[name]


FIELDS = {"backbone": "resnet18", "num_classes": 10}
PASSES = {"deacl": 7, "fare": 6, "profeat": 7, "rocl": 10}  # as counted from the authors' code


def test_a_supervised_teacher_is_told():
    cfg = config.preset("configs/", "deacl.py", "digits")
    cfg.deacl.teacher = "baseline"
    assert label_use(cfg, "deacl") == ["teacher"]
    assert "pgd" in stages.trained_on(cfg, "deacl") and "fgsm" not in stages.trained_on(cfg, "deacl")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("deacl__teacher", "simsiam", "deacl.teacher is 'simsiam'; it can be baseline, .*simclr, or empty: none"),
        ("deacl__teacher", "", "deacl.ascend is 'teacher', but the stage has no teacher: deacl.teacher names one"),
        ("deacl__ascend", "student,teacher", "'student,teacher'; it needs one word for each of deacl.compares"),
        ("deacl__ascend", "online", "takes an objective of logits"),
        (
            "deacl__views",
            "clean,pgd",
            "'pgd' cannot be maximised, .* objective of embeddings .cosine_distance",
        ),
        (
            "deacl__views",
            "clean",
            "views 'clean' with deacl.loss .* needs a clean view and an attacked one",
        ),
        ("deacl__views", "clean(hue=0.1),pgd(objective=cosine_distance)", "'clean' takes no settings; augmented does"),
        ("deacl__views", "augmented(haze=1)", "view 'augmented' has no setting 'haze'; it has crop_padding"),
        ("deacl__compares", "head", "deacl.compares is 'head'; it can be backbone, projector, or both"),
        ("deacl__encoding", "triple", "deacl.encoding is 'triple'; it can be together, apart, dual"),
        ("baseline__ascend", "partner", "baseline.ascend is 'partner'"),
        ("simclr__loss", "distillation", "simclr.loss is 'distillation', which needs a teacher"),
        ("simclr__start", "deacl", "deacl.start, .ascend or .teacher leads back to deacl: deacl <- simclr <- deacl"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path, field, value, said):
    with pytest.raises(ValueError, match=said) as caught:
        start(tmp_path / "run", "deacl.py:digits", **{field: value})
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_teacher_that_is_not_trained_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"stage 'simclr' has no checkpoint in .*: add it to config.stages") as caught:
        start(tmp_path / "run", "deacl.py:digits", stages="deacl", **quick("deacl"), deacl__start="scratch")
    assert "\n" not in str(caught.value)
