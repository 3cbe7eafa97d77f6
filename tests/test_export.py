"""`python -m clead_jax.export`: the files and their card; what is refused writes nothing."""

import dataclasses
import importlib.util
import json
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
import speck  # noqa: F401  the plugin of that run

import clead_jax
from clead_jax import audit, export
from clead_jax.config import cli
from clead_jax.core.registry import EXPORTERS, Entry
from clead_jax.interop import outside

OLD = pathlib.Path(__file__).resolve().parent / "fixtures" / "workdir-v0.1"
THERE = [name for name in ("onnx", "safetensors") if importlib.util.find_spec(name)]
COMMON = ["--attacks=pgd(steps=2)", "--num_examples=32"]


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD, tmp_path / "run")


def command(monkeypatch, capsys, door, *words):
    """(exit status, stdout, stderr) of a door's command."""
    monkeypatch.setattr(sys, "argv", [door.__name__, *words])
    status = 0
    try:
        cli.run(door.main)
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_files_and_card(run, tmp_path, monkeypatch, capsys):
    formats = ["jax", "stablehlo", *THERE]
    words = [f"--workdir={run}", f"--output={tmp_path / 'out'}", f"--format={','.join(formats)}", *COMMON]
    status, said, error = command(monkeypatch, capsys, export, *words)
    assert status == 0, error
    card, text = json.loads((tmp_path / "out/card.json").read_text()), (tmp_path / "out/card.md").read_text()
    assert text in said and "On the machine below" in text and "jax promises to read it in releases up to" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("card.json", "card.md", "config.json"),
        *(f"model.{EXPORTERS[name].info['suffix']}" for name in formats),
    }
    source = clead_jax.load(str(run))
    assert card["model"]["checkpoint"]["fingerprint"] == source.fingerprint
    assert card["threat_model"] == {"norm": "linf", "eps": 0.1} and card["dataset"]["num_examples"] == 32
    assert card["attack_settings"]["pgd(steps=2)"]["steps"] == 2
    assert card["batch_norm"]["folded_convolutions"] == 1 and card["model"]["trained"]["trains"] == "head"
    assert card["command"].startswith("python -m clead_jax.export --workdir=run --output=out")
    for each in card["files"].values():
        assert each["largest_logit_difference"] < 1e-5 and [t["batch"] for t in each["latency"]] == [1, 8, 64]
        assert each["accuracy"]["worst case"] <= each["accuracy"]["clean"]
        assert ("pgd(steps=2), made on the file" in each["accuracy"]) == (each["gradients"] == "of the file")
    assert card["files"]["jax"]["gradients"] == "of the file" != card["files"]["stablehlo"]["gradients"]

    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    found = clead_jax.load_exported(tmp_path / "out/model.jax")
    np.testing.assert_allclose(found(images), source(images), atol=1e-5)
    measured = card["files"]["jax"]["accuracy"]["clean"]
    words = [
        f"--model={tmp_path / 'out/model.jax'}",
        "--images=digits",
        "--attacks=fgsm",
        "--checks=False",
        "--batch_size=32",
    ]
    status, said, error = command(monkeypatch, capsys, audit, *words, "--num_examples=32", "--format=json")
    assert status == 0, error
    assert json.loads(said)["accuracy"]["clean"] == pytest.approx(measured, abs=0.2)

    status, _, error = command(monkeypatch, capsys, export, f"--workdir={run}", f"--output={tmp_path / 'out'}", *COMMON)
    assert status == 2 and "exists already" in error and error.count("\n") == 1


def test_the_archive_needs_no_work_directory(run, tmp_path, monkeypatch, capsys):
    """As docs/exported-models.md has it."""
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    from flax import traverse_util

    from clead_jax.experiment import networks
    from clead_jax.interop import read_weights

    words = [f"--workdir={run}", "--stage=baseline", "--format=safetensors", "--batch_size=8", *COMMON]
    status, _, error = command(monkeypatch, capsys, export, *words)
    assert status == 0, error
    card = json.loads((run / "export/card.json").read_text())
    assert card["model"]["stage"] == "baseline" and card["batch_size"] == 8
    variables = traverse_util.unflatten_dict(read_weights(run / "export/model.safetensors"), sep=".")
    model = networks.classifier(card["model"]["network"], variables)
    images = np.random.default_rng(0).random((3, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(model(images), clead_jax.load(str(run), "baseline")(images))


def wrong(model):
    """Writes another model than it is given."""
    return EXPORTERS["jax"].value(dataclasses.replace(model, forward=lambda x: 1.1 * model.forward(x)))


def test_a_file_that_is_not_the_model_is_not_kept(run, monkeypatch, capsys):
    monkeypatch.setitem(EXPORTERS._entries, "wrong", Entry(wrong, None, EXPORTERS["jax"].info))
    status, _, error = command(monkeypatch, capsys, export, f"--workdir={run}", "--format=jax,wrong", *COMMON)
    assert status == 2 and "gives other logits than the model it was made of" in error and error.count("\n") == 1
    assert not (run / "export").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--format=jax,tflite"], "unknown format 'tflite'"),
        (["--format="], "format"),
        (["--stage=joint"], "no checkpoint of stage 'joint'; it has baseline, probe"),
        (["--stage=noise(probe)"], "draws noise"),
        (["--which=77"], "77"),
        (["--weights=ema"], "ema"),
        (["--batch_size=0"], "batch_size"),
        (["--batch_size=any"], "batch_size"),
        (["--attacks=magic"], "unknown attack 'magic'"),
        (["--attacks=fgsm(eps=0.3)"], "eps"),
        (["--workdir=nowhere"], "nowhere"),
        (["--workdir="], "which run?"),
    ],
    ids=str,
)
def test_bad_input_is_one_line_and_writes_nothing(run, monkeypatch, capsys, words, told):
    words = words if any("workdir" in word for word in words) else [f"--workdir={run}", *words]
    status, _, error = command(monkeypatch, capsys, export, *COMMON[1:], *words)
    assert status == 2 and told in error and error.count("\n") == 1, error
    assert not (run / "export").exists() and not list(run.parent.glob("*.half"))


@pytest.mark.parametrize("name", ["onnx", "safetensors"])
def test_a_missing_extra_is_named(run, monkeypatch, capsys, name):
    real = outside.importlib.import_module
    absent = lambda module: real("no_such_module" if module.partition(".")[0] == name else module)
    monkeypatch.setattr(outside.importlib, "import_module", absent)
    status, _, error = command(monkeypatch, capsys, export, f"--workdir={run}", f"--format=jax,{name}", *COMMON)
    assert status == 2 and error == f"error: {name} is not installed: pip install 'clead-jax[{name}]'\n"
    assert not (run / "export").exists()


def test_latency_counts_calls_and_images():
    from clead_jax.experiment import throughput

    seen = []
    found = throughput.latency(lambda x: seen.append(x.shape), (8, 4, 4, 1), seconds=0)
    assert {*seen} == {(8, 4, 4, 1)} and found["calls"] == 20 == len(seen) - 3 and found["batch"] == 8
    assert 0 < found["median_ms"] <= found["p95_ms"] and found["images_per_s"] > 0


def test_a_network_in_bfloat16_is_not_folded():
    """Where folding moves the logits it is left: here by the rounding of half precision."""
    from clead_jax.interop import folding

    kernel = jax.numpy.full((3, 3, 1, 2), 0.3, jax.numpy.bfloat16)
    half = lambda x: jax.lax.conv_general_dilated(
        x.astype(jax.numpy.bfloat16), kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    image = jax.ShapeDtypeStruct((1, 4, 4, 1), np.float32)
    assert folding.convolutions(lambda x: half(x).astype(np.float32) * 2, image) == 0
    assert folding.convolutions(lambda x: half(x) * 2, image) == 1
