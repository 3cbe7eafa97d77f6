"""Stages that learn from a frozen teacher, and RoCL: what their switches change, and that it lasts.

All on eight fake devices, as every test.
"""

import json
import shutil

import jax
import numpy as np
import pytest
import speck

from clead_jax import config, main
from clead_jax.experiment import builders, stages
from clead_jax.training import checkpoint

QUICK = {"epochs": 2, "batch_size": 16, "warmup_epochs": 0}


def start(workdir, preset, **more):
    main.main(speck.command(workdir, f"configs/{preset}", **more))
    return workdir


def quick(stage, **more):
    return {f"{stage}__{name}": value for name, value in (QUICK | more).items()}


def weights(workdir, stage, part="backbone"):
    model = checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), "latest")[0]
    return {collection: model[collection].get(part) for collection in model}


def same(a, b):
    return jax.tree.all(jax.tree.map(np.array_equal, a, b))


def lines(workdir, stage):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["stage"] == stage]


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A trained teacher. Read only."""
    workdir = tmp_path_factory.mktemp("taught")
    return start(workdir, "deacl.py:digits", stages="simclr", **quick("simclr"), **quick("deacl"))


@pytest.fixture
def student(taught, tmp_path):
    def run(preset="deacl.py:digits", stage="deacl", folder="run", **own):
        workdir = tmp_path / folder
        shutil.copytree(taught, workdir, dirs_exist_ok=True)
        return start(workdir, preset, **({"stages": stage} | quick("simclr") | quick(stage, **own)))

    return run


@pytest.mark.parametrize(
    ("preset", "stage", "passes"),
    [("deacl.py:digits", "deacl", 3), ("deacl.py:fare-digits", "fare", 2), ("profeat.py:digits", "profeat", 3)],
)
def test_students_move_away_from_their_teacher_and_say_what_they_cost(student, taught, preset, stage, passes):
    workdir = student(preset, stage)
    assert same(weights(workdir, "simclr"), weights(taught, "simclr"))
    parts = ("backbone", "projector", "head")
    moved = {part: not same(weights(workdir, stage, part), weights(taught, "simclr", part)) for part in parts}
    assert moved == {"backbone": True, "projector": False, "head": True}
    line = lines(workdir, stage)[-1]
    assert line["passes"] == 64 * passes and np.isfinite(line["loss"])  # one step of the attack, one or two views
    assert stages.label_use(config.preset("configs/", *preset.split(":")), stage) == []


def test_a_student_killed_and_resumed_ends_with_the_same_weights(student, tmp_path, monkeypatch):
    straight = weights(student(folder="straight"), "deacl")
    save = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", lambda *a: (save(*a), (_ for _ in ()).throw(KeyboardInterrupt))[0])
    with pytest.raises(KeyboardInterrupt):
        student(folder="killed")
    monkeypatch.undo()
    assert len(lines(tmp_path / "killed", "deacl")) == 1
    assert same(weights(start_again(tmp_path / "killed"), "deacl"), straight)


def start_again(workdir):
    return start(workdir, "deacl.py:digits", stages="deacl", **quick("simclr"), **quick("deacl"))


@pytest.mark.parametrize(
    "switch",
    [
        {"loss": "distillation(attacked_weight=0)"},
        {"loss": "distillation(anchor=teacher)"},
        {"ascend": "student"},
        {"compares": "projector"},
        {"encoding": "apart"},
        {"views": "augmented(color_jitter=1.0),pgd(objective=cosine_distance)"},
    ],
    ids=str,
)
def test_every_switch_changes_the_student(student, switch):
    one = {"epochs": 1}
    plain, other = student(folder="plain", **one), student(folder="other", **one, **switch)
    assert not same(weights(plain, "deacl"), weights(other, "deacl"))


def test_rocl_trains_without_labels_on_three_views(tmp_path):
    own = quick("rocl", epochs=1)
    workdir = start(tmp_path / "run", "rocl.py:digits", stages="rocl", **own)
    (line,) = lines(workdir, "rocl")
    assert line["passes"] == 64 * 4 and np.isfinite(line["loss"])
    other = start(tmp_path / "other", "rocl.py:digits", stages="rocl", **own, rocl__loss="rocl(stop_keys=false)")
    assert not same(weights(workdir, "rocl"), weights(other, "rocl"))
    other = start(tmp_path / "contrast", "rocl.py:digits", stages="rocl", **own, rocl__ascend="contrastive")
    assert not same(weights(workdir, "rocl"), weights(other, "rocl"))
    assert stages.label_use(config.preset("configs/", "rocl.py", "digits"), "rocl") == []


def test_a_supervised_teacher_is_told():
    cfg = config.preset("configs/", "deacl.py", "digits")
    cfg.deacl.teacher = "baseline"
    assert stages.label_use(cfg, "deacl") == ["teacher"]
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
        ("deacl__views", "augmented(blur=1)", "view 'augmented' has no setting 'blur'; it has crop_padding"),
        ("deacl__compares", "head", "deacl.compares is 'head'; it can be backbone, projector, or both"),
        ("deacl__encoding", "dual", "deacl.encoding is 'dual'; it can be together, apart"),
        ("baseline__ascend", "partner", "baseline.ascend is 'partner'"),
        ("simclr__loss", "distillation", "simclr.loss is 'distillation', which needs a teacher"),
        ("simclr__start", "deacl", "simclr.start, .ascend or .teacher leads back to simclr: simclr <- deacl <- simclr"),
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
