"""Stages that are only a config entry, averaged weights, TRADES, label smoothing: what each changes, and that it lasts.

All on eight fake devices, as every test.
"""

import json
import shutil

import jax
import numpy as np
import pytest
import speck
from killing import killed_after_a_save
from reading import lines, same

from clead_jax import main
from clead_jax.experiment import builders
from clead_jax.reporting import labels
from clead_jax.training import checkpoint

QUICK = {"epochs": 2, "batch_size": 16}


def start(workdir, config, **more):
    main.main(speck.command(workdir, config, **more))
    return workdir


def weights(workdir, stage, which="latest", name=""):
    return checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), which, name)[0]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Baseline and phase 1. Read only."""
    return start(tmp_path_factory.mktemp("pretrained"), "configs/finetune.py:slf-digits", stages="baseline,pretrain")


@pytest.fixture
def from_pretrained(pretrained, tmp_path):
    def run(way, **more):
        workdir = tmp_path / way
        shutil.copytree(pretrained, workdir, dirs_exist_ok=True)
        fields = {f"{way}__{name}": value for name, value in (QUICK | more.pop("own", {})).items()}
        return start(workdir, f"configs/finetune.py:{way}-digits", **({"stages": way} | fields | more))

    return run


def test_a_backbone_without_batch_statistics_is_trained_and_gets_a_fresh_head(tmp_path):
    more = {"stages": "baseline,sff", "sff__start": "baseline", "model__stem": "imagenet"}
    run = start(tmp_path / "run", "configs/finetune.py:sff-digits", sff__epochs=1, sff__batch_size=16, **more)
    before, after = (weights(run, stage)["params"] for stage in ("baseline", "sff"))
    assert not same(before["backbone"], after["backbone"]) and not same(before["head"], after["head"])


# --- fine-tuning: four stages that are nothing but configs ------------------------------------------------------------


@pytest.mark.parametrize(
    ("way", "moves_backbone", "passes"), [("slf", False, 1), ("alf", False, 2), ("sff", True, 1), ("aff", True, 2)]
)
def test_fine_tuning_trains_what_it_says_on_what_it_says(pretrained, from_pretrained, way, moves_backbone, passes):
    workdir = from_pretrained(way)
    before, after = weights(pretrained, "pretrain"), weights(workdir, way)
    assert same(before["params"]["backbone"], after["params"]["backbone"]) != moves_backbone
    assert same(before["batch_stats"], after["batch_stats"]) != moves_backbone
    assert same(before["params"]["projector"], after["params"]["projector"])
    assert not same(before["params"]["head"], after["params"]["head"])
    assert lines(workdir, way)[-1]["passes"] == 64 * passes  # one of the attack's step, where there is an attack


def test_a_new_stage_is_evaluated_and_its_history_told(from_pretrained):
    workdir = from_pretrained("aff", stages="aff,evaluate,report")
    results = json.loads((workdir / "evaluation/results.json").read_text())
    assert results["models"]["defended"]["checkpoint"]["stage"] == "aff"
    assert results["label_use"]["defended"] == ["training"]
    assert set(results["seen_attacks"]) == {"fgsm", "pgd"}  # fgsm in phase 1, pgd now
    assert (workdir / "report/index.html").exists()
    command = ["main", "--config=configs/finetune.py:aff-digits"]
    assert "aff" in (workdir / "config.json").read_text() and command


def test_a_new_stage_killed_and_resumed_ends_with_the_same_weights(from_pretrained, monkeypatch, tmp_path):
    straight = weights(from_pretrained("aff"), "aff")
    save, calls = checkpoint.save, []

    def dying(*args):
        save(*args)
        calls.append(args)
        if len(calls) == 1:
            raise KeyboardInterrupt

    shutil.rmtree(tmp_path / "aff/checkpoints/aff")
    monkeypatch.setattr(checkpoint, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        from_pretrained("aff")
    monkeypatch.undo()
    assert same(weights(from_pretrained("aff"), "aff"), straight)


# --- averaged weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("average", "name"),
    [
        pytest.param("ema(decay=0.5)", "ema", marks=pytest.mark.slow),
        pytest.param("swa(start=0.5)", "swa", marks=pytest.mark.slow),
    ],
)
def test_averaged_weights_stand_beside_the_last_and_survive_a_kill(tmp_path, monkeypatch, average, name):
    settings = {"stages": "baseline", "baseline__average": average, "baseline__epochs": 3}
    straight = start(tmp_path / "straight", "configs/quickstart.py", **settings)
    last, averaged = weights(straight, "baseline"), weights(straight, "baseline", name=name)
    assert jax.tree.structure(last) == jax.tree.structure(averaged)
    assert not same(last["params"]["backbone"], averaged["params"]["backbone"])
    assert not same(last["batch_stats"], averaged["batch_stats"])  # estimated anew, for these weights
    with killed_after_a_save(monkeypatch):
        start(tmp_path / "killed", "configs/quickstart.py", **settings)
    start(tmp_path / "killed", "configs/quickstart.py", **settings)
    assert same(weights(tmp_path / "killed", "baseline", name=name), averaged)
    assert same(weights(tmp_path / "killed", "baseline"), last)


def test_an_average_does_not_change_training(tmp_path):
    settings = {"stages": "baseline", "baseline__epochs": 1}
    plain = start(tmp_path / "plain", "configs/quickstart.py", **settings)
    averaged = start(tmp_path / "averaged", "configs/quickstart.py", baseline__average="ema", **settings)
    assert same(weights(plain, "baseline"), weights(averaged, "baseline"))


def test_weights_that_are_not_there_are_named(tmp_path):
    start(tmp_path, "configs/quickstart.py", stages="baseline", baseline__epochs=1, baseline__average="ema")
    with pytest.raises(ValueError, match=r"no weights 'swa' in \S+: it holds ema"):
        weights(tmp_path, "baseline", name="swa")


# --- losses -----------------------------------------------------------------------------------------------------------


def test_trades_is_a_config(tmp_path):
    settings = {"stages": "trades", "trades__epochs": 1, "trades__batch_size": 16, "train_attack__steps": 2}
    workdir = start(tmp_path / "run", "configs/trades.py:digits", **settings)
    (line,) = lines(workdir, "trades")
    assert line["passes"] == 64 * 4 and np.isfinite(line["loss"])  # two of the attack, two views
    plain = start(tmp_path / "plain", "configs/trades.py:digits", trades__loss="trades(beta=0)", **settings)
    assert not same(weights(workdir, "trades"), weights(plain, "trades"))


def test_label_smoothing_is_a_setting_of_the_loss(tmp_path):
    settings = {"stages": "baseline", "baseline__epochs": 1}
    plain = start(tmp_path / "plain", "configs/quickstart.py", **settings)
    zero = start(tmp_path / "zero", "configs/quickstart.py", baseline__loss="cross_entropy(smoothing=0)", **settings)
    smooth = start(
        tmp_path / "smooth", "configs/quickstart.py", baseline__loss="cross_entropy(smoothing=0.2)", **settings
    )
    assert same(weights(plain, "baseline"), weights(zero, "baseline"))
    assert not same(weights(plain, "baseline"), weights(smooth, "baseline"))


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        (
            "baseline__loss",
            "supcon",
            "baseline.loss is 'supcon', a loss of embeddings; of logits there are",
        ),
        ("baseline__loss", "trades", "views 'clean' with baseline.loss 'trades': trades needs a clean and an attacked"),
        ("baseline__average", "mean", "unknown average 'mean'; known: ema, swa"),
        ("baseline__views", "clean,blurred", "unknown attack 'blurred'"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path, field, value, said):
    with pytest.raises(ValueError, match=said) as caught:
        start(tmp_path / "run", "configs/quickstart.py", stages="baseline", **{field: value})
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


# --- batch statistics of a frozen backbone ----------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "moves"), [("frozen", False), ("reestimate", True)])
def test_a_probe_moves_the_batch_statistics_that_it_is_told_to(pretrained, from_pretrained, kind, moves):
    workdir = from_pretrained("slf", own={"batch_stats": kind}, stages="slf,evaluate")
    before, after = weights(pretrained, "pretrain"), weights(workdir, "slf")
    assert same(before["params"]["backbone"], after["params"]["backbone"])
    assert same(before["batch_stats"], after["batch_stats"]) != moves
    results = json.loads((workdir / "evaluation/results.json").read_text())
    said = {"frozen": "slf (BN frozen)", "reestimate": "slf (BN re-estimated)"}[kind]
    assert labels.model_title("defended", results) == said
    assert labels.model_title("baseline", results) == "Without C-LEAD"


def test_frozen_batch_statistics_are_the_default(from_pretrained, tmp_path):
    default = weights(from_pretrained("slf"), "slf")
    shutil.rmtree(tmp_path / "slf")
    assert same(weights(from_pretrained("slf", own={"batch_stats": "frozen"}), "slf"), default)


def test_reestimated_statistics_survive_a_kill(from_pretrained, monkeypatch, tmp_path):
    own = {"batch_stats": "reestimate", "epochs": 3}
    straight = weights(from_pretrained("slf", own=own), "slf")
    shutil.rmtree(tmp_path / "slf")
    with killed_after_a_save(monkeypatch):
        from_pretrained("slf", own=own)
    assert same(weights(from_pretrained("slf", own=own), "slf"), straight)


def test_batch_statistics_that_cannot_be_meant_are_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"probe\.batch_stats is 'moving'; it can be frozen, reestimate"):
        start(tmp_path / "run", "configs/quickstart.py", probe__batch_stats="moving")
