"""Static views: made once on another stage's frozen weights, kept as 8 bits, made again when no longer true."""

import json
import shutil

import jax
import numpy as np
import pytest
import speck
from reading import same

from clead_jax import config, main
from clead_jax.attacks import run
from clead_jax.core import numerics
from clead_jax.core.batches import example_keys
from clead_jax.experiment import builders, models, stages, static_views
from clead_jax.training import checkpoint

PGD = "pgd(steps=2,step_size=3/255)"
VIEWS = {"views": f"clean,static({PGD}),static(fgsm)", "pretrain__ascend": "baseline", "pretrain__epochs": 1}
PRETRAIN = {"stages": "pretrain", **VIEWS}


def start(workdir, **more):
    main.main(speck.command(workdir, **more))
    return workdir


def weights(workdir, stage="pretrain"):
    return checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), "latest")[0]


def images(workdir, number):
    with np.load(workdir / f"views/pretrain-{number}.npz") as stored:
        return stored["images"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Baseline, and phase 1 on static views. Read only."""
    return start(tmp_path_factory.mktemp("static") / "run", **VIEWS, stages="baseline,pretrain")


@pytest.fixture
def begun(finished, tmp_path):
    """The same before phase 1, its views made already."""
    workdir = shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(workdir / "checkpoints/pretrain")
    return workdir


@pytest.fixture
def made(monkeypatch):
    """The names of the attacks that are really run."""
    names, original = [], static_views.run_attacks
    spy = lambda *a, **more: names.extend(named.name for named in a[2]) or original(*a, **more)
    monkeypatch.setattr(static_views, "run_attacks", spy)
    return names


def test_they_are_the_attack_on_the_named_stage_in_8_bits(finished):
    cfg, _ = config.restore(finished)
    train = builders.splits(cfg, builders.dataset(cfg)).train
    model, x = models.load(str(finished), "baseline", plugins="speck"), train.images / np.float32(255)
    keys = example_keys(numerics.threefry(jax.random.fold_in(stages.key_of(cfg.seed, "pretrain"), 2)), train.index)
    for number, text in ((1, PGD), (2, "fgsm")):
        named = builders.named_training_attack(cfg, text)
        expected = run(named.attack, model, named.objective, x, train.labels, keys, named.cfg)
        found = images(finished, number)
        assert found.dtype == np.uint8 and found.shape == train.images.shape
        assert np.abs(found / 255.0 - np.asarray(expected)).max() <= 0.5 / 255 + 1e-6
        assert np.abs(found / 255.0 - x).max() <= named.cfg.eps + 1 / 255 and (found != train.images).mean() > 0.2


def test_what_they_cost_is_counted_once(finished):
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    own = [line for line in lines if line["stage"] == "pretrain"]
    assert [line["passes"] for line in own] == [64 * 2, 64 * 1, 64 * 3]  # two steps, one; three views in the epoch


def test_they_decide_what_is_learned_and_are_not_made_twice(finished, begun, made, tmp_path):
    start(begun, **PRETRAIN)
    assert made == [] and same(weights(begun), weights(finished))
    other = shutil.copytree(finished, tmp_path / "other")
    shutil.rmtree(other / "checkpoints/pretrain")
    start(other, **PRETRAIN | {"views": "clean,static(fgsm),static(fgsm(eps=0.3))"})
    assert made == ["fgsm", "fgsm(eps=0.3)"] and not same(weights(other), weights(finished))


@pytest.mark.parametrize("damage", ["half", "empty", "foreign"])
def test_files_that_are_not_theirs_are_made_again(finished, begun, made, capsys, damage):
    path = begun / "views/pretrain-1.npz"
    if damage == "half":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "empty":
        np.savez(path, other=np.zeros(3))
    else:
        with np.load(path) as stored:
            np.savez(path, images=stored["images"][::-1], made_of="0" * 16)
    start(begun, **PRETRAIN)
    assert made == [PGD] and same(weights(begun), weights(finished))
    assert capsys.readouterr().out.count("static views are made again: ") == 1
    np.testing.assert_array_equal(images(begun, 1), images(finished, 1))


def test_a_kill_while_they_are_made_or_trained_on_changes_nothing(finished, begun, monkeypatch):
    shutil.rmtree(begun / "views")
    save, calls = static_views.files.save_arrays, []

    def dying(path, *args, **kwargs):
        save(path, *args, **kwargs)
        if path.name == "pretrain-1.npz":
            calls.append(path)
            raise KeyboardInterrupt

    monkeypatch.setattr(static_views.files, "save_arrays", dying)
    with pytest.raises(KeyboardInterrupt):
        start(begun, **PRETRAIN)
    monkeypatch.undo()
    start(begun, **PRETRAIN)
    assert calls and same(weights(begun), weights(finished))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pretrain__ascend": "contrastive"}, r"pretrain.ascend must name a stage \(baseline, .*\), not 'contrastive'"),
        ({"views": "clean,static(pgd(objective=kl))"}, "kl is measured from clean logits, a static view from labels"),
        ({"views": "clean,static(blur)"}, "unknown attack 'blur'"),
        ({"probe__attacked": 2}, "probe.attacked is 2.0; it is a probability"),
    ],
)
def test_what_cannot_be_made_is_one_line(tmp_path, fields, said):
    with pytest.raises(ValueError, match=said) as caught:
        start(tmp_path / "run", **VIEWS | fields)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()
