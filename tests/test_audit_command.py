"""`python -m clead_jax.audit`: any model that Python can import, without a work directory."""

import json
import pickle
import sys

import numpy as np
import pytest

from clead_jax import audit
from clead_jax.config import cli
from clead_jax.results.consistency import digest

MODEL = """
import jax
import numpy as np
from clead_jax import Classifier
from sklearn.datasets import load_digits
images, labels = load_digits(return_X_y=True)
means = np.stack([images[labels == k].mean(0) / 16 for k in range(10)]).astype(np.float32)
w = means.T - means.mean()
logits = lambda x: x.reshape(len(x), -1) @ w
doubled = lambda x: 2 * logits(x)
stepped = lambda x: logits(jax.numpy.round(15 * x) / 15)
classifier = Classifier(lambda v, x: x.reshape(len(x), -1) @ v, w)
make = lambda: logits
pair = lambda x: (logits(x), 1)
named = lambda x: {"logits": logits(x)}
probabilities = lambda x: jax.nn.softmax(logits(x))
number = 3
class Net:
    def logits(self, x): return logits(x)
net = Net()
"""
COMMON = ["--images=digits", "--num_examples=64", "--attacks=fgsm", "--eps=0.1", "--checks=False", "--batch_size=64"]
NO_SETTINGS = ["--images=digits", "--checks=False", "--batch_size=64"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    (tmp_path / "linear_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "linear_model", raising=False)


def run(capsys, monkeypatch, *words):
    """(exit status, stdout, stderr) of the command."""
    monkeypatch.setattr(sys, "argv", ["audit", *words])
    status = 0
    try:
        cli.run(audit.main)
    except SystemExit as end:
        status = end.code
    return status, *capsys.readouterr()


def test_a_record_holds_and_is_a_work_directory(capsys, monkeypatch, tmp_path):
    status, said, _ = run(capsys, monkeypatch, "--model=linear_model:logits", *COMMON, "--output=out")
    assert status == 0 and "64 images, linf, eps 0.1" in said
    results = json.loads((tmp_path / "out/evaluation/results.json").read_text())
    records = np.load(tmp_path / "out/evaluation/per_example.npz")
    assert results["models"]["model"]["accuracy"]["fgsm"] == records["model/fgsm"].mean()
    assert results["dataset"]["name"] == "digits" and "FGSM" in (tmp_path / "out/report/index.html").read_text()

    status, said, _ = run(capsys, monkeypatch, "--model=linear_model:logits", *NO_SETTINGS, "--verify=out")
    assert status == 0 and "out holds" in said
    status, _, error = run(capsys, monkeypatch, "--model=linear_model:doubled", *NO_SETTINGS, "--verify=out")
    assert (
        status == 2
        and error == "error: out is the record of another model: it gives other outputs for the same images\n"
    )
    status, _, error = run(capsys, monkeypatch, "--model=linear_model:logits", *COMMON, "--verify=out")
    assert status == 2 and "leave out --eps, --attacks, --num_examples" in error
    assert run(capsys, monkeypatch, "--model=linear_model:logits", *COMMON, "--output=out")[0] == 2


def test_several_norms_and_their_union(capsys, monkeypatch, tmp_path):
    words = [word for word in COMMON if not word.startswith("--eps")]
    words += ["--model=linear_model:logits", "--norm=linf,l2", "--eps=0.1,0.5"]
    status, said, _ = run(capsys, monkeypatch, *words, "--output=out", "--format=json")
    told = json.loads(said)
    records = [np.load(tmp_path / "out/evaluation" / tag / "per_example.npz") for tag in ("", "l2-0.5")]
    every = [np.logical_and(record["model/clean"], record["model/fgsm"]) for record in records]
    assert status == 0 and told["eps"] == [0.1, 0.5]
    assert told["accuracy"]["union"] == np.logical_and(*every).mean() < min(hits.mean() for hits in every)
    assert told["accuracy"]["l2"] == every[1].mean() == told["by_norm"]["l2"]["accuracy"]["fgsm"]
    kept = np.load(tmp_path / "out/evaluation/union.npz")
    np.testing.assert_array_equal(kept["model/union"], np.logical_and(*every))
    union = json.loads((tmp_path / "out/evaluation/union.json").read_text())["models"]["model"]
    assert union["accuracy"] == told["accuracy"] and set(union["interval95"]) == {"clean", "linf", "l2", "union"}
    page = (tmp_path / "out/report/report.md").read_text()
    assert "## All norms together" in page and f"{100 * told['accuracy']['union']:.1f}" in page

    status, said, _ = run(capsys, monkeypatch, "--model=linear_model:logits", *NO_SETTINGS, "--verify=out")
    assert status == 0 and "out holds" in said
    (tmp_path / "out/evaluation/l2-0.5/results.json").unlink()
    status, _, error = run(capsys, monkeypatch, "--model=linear_model:logits", *NO_SETTINGS, "--verify=out")
    assert status == 2 and "l2" in error and error.count("\n") == 1


def test_a_record_that_does_not_hold(capsys, monkeypatch, tmp_path):
    run(capsys, monkeypatch, "--model=linear_model:logits", *COMMON, "--output=out")
    file = tmp_path / "out/evaluation/per_example.npz"
    arrays = dict(np.load(file))
    arrays["model/fgsm"] = arrays["model/clean"]  # somebody claims that FGSM breaks nothing
    np.savez(file, **arrays)
    path = tmp_path / "out/evaluation/results.json"
    found = json.loads(path.read_text())
    own = found["models"]["model"]
    for kind in ("accuracy", "interval95"):
        own[kind] |= dict.fromkeys(("fgsm", "worst_case"), own[kind]["clean"])
    path.write_text(json.dumps(found))
    status, _, error = run(capsys, monkeypatch, "--model=linear_model:logits", *NO_SETTINGS, "--verify=out")
    assert status == 2 and "is not the record" in error  # forged in one file only
    found["digests"]["model/fgsm"] = digest(arrays["model/fgsm"])
    path.write_text(json.dumps(found))
    status, _, error = run(capsys, monkeypatch, "--model=linear_model:logits", *NO_SETTINGS, "--verify=out")
    assert status == 3 and "fgsm does not hold" in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["classifier", "make", "net.logits"])
def test_what_a_model_can_be(capsys, monkeypatch, name):
    told = [
        json.loads(run(capsys, monkeypatch, f"--model=linear_model:{which}", *COMMON, "--format=json")[1])
        for which in ("logits", name)
    ]
    assert told[0] == told[1] and told[0]["accuracy"]["fgsm"] < told[0]["accuracy"]["clean"]


def test_a_wrapper_around_a_model(capsys, monkeypatch):
    """Most pixels of a digit are 0 or 16 of 16, so rounding to 4 bits takes the gradient and little else."""
    command = lambda text: run(capsys, monkeypatch, f"--model={text}", *COMMON, "--format=json")
    status, said, error = command("bit_depth(linear_model:classifier,bits=4,attacked=exact)")
    assert (status, error) == (0, "")
    blind, through = json.loads(said), json.loads(command("bit_depth(linear_model:classifier,bits=4)")[1])
    assert blind["accuracy"]["clean"] == through["accuracy"]["clean"] == blind["accuracy"]["fgsm"]
    assert through["accuracy"]["fgsm"] < through["accuracy"]["clean"]
    assert blind["notes"] == ["bit_depth: attacks follow the derivative of the filter as it is"]


def test_too_low_an_accuracy_is_status_3(capsys, monkeypatch):
    status, said, error = run(
        capsys, monkeypatch, "--model=linear_model:logits", *COMMON, "--fail_below=99", "--format=sarif"
    )
    assert status == 3 and "below 99 %" in error
    (sarif,) = json.loads(said)["runs"]
    assert [(r["ruleId"], r["level"]) for r in sarif["results"]] == [("unmet", "error")]
    assert run(capsys, monkeypatch, "--model=linear_model:logits", *COMMON, "--fail_below=0")[0] == 0


def test_a_failed_check_is_status_3_where_there_is_a_limit(capsys, monkeypatch):
    """Rounded pixels have no gradient, so that FGSM finds nothing and the accuracy is above any limit."""
    words = ["--model=linear_model:stepped", *(word for word in COMMON if "checks" not in word)]
    status, said, _ = run(capsys, monkeypatch, *words)
    assert status == 0 and "FAIL gradient_zero_or_nan" in said
    status, _, error = run(capsys, monkeypatch, *words, "--fail_below=1")
    assert status == 3 and "is not to be relied on: gradient_zero_or_nan" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--model=linear_model:pair"], "logits [B, K]"),
        (["--model=linear_model:named"], "logits [B, K]"),
        (["--model=linear_model:probabilities"], "gives probabilities: return logits"),
        (["--model=linear_model:number"], "is a int"),
        (["--model=linear_model:nothing"], "no attribute"),
        (["--model=no_such_module:logits"], "No module named"),
        (["--model=linear_model"], "package.module:function"),
        (["--model=jpg(linear_model:logits)"], "unknown wrapper 'jpg': did you mean 'jpeg'"),
        (["--model=bit_depth(linear_model:logits,bits=0)"], "bits must be at least 1, got 0"),
        (["--model=median(linear_model:logits,size=9)"], "a window of 9 pixels is larger than the images, 8x8"),
        (["--model=jpeg(linear_model:logits+linear_model:doubled)"], "jpeg wraps one classifier, not 2"),
        ([], "which model"),
        (["--model=linear_model:logits", "--images=npz:none.npz"], "no file"),
        (["--model=linear_model:logits", "--fail_below=450"], "fail_below"),
        (["--model=linear_model:logits", "--norm=linf,l2"], "one radius for each norm"),
        (["--model=linear_model:logits", "--norm=linf,l2", "--eps=0.1,9"], "[0, 8]"),
        (["--model=linear_model:logits", "--corruptions"], "corruptions"),
        (["--model=linear_model:logits", "--verify=none"], "none"),
        (["--model=linear_model:logits", "--format=xml"], "format"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(capsys, monkeypatch, tmp_path, words, told):
    settings = [word for word in COMMON if not any(word.split("=")[0] in other for other in words)]
    settings = NO_SETTINGS if "--verify=none" in words else settings
    status, _, error = run(capsys, monkeypatch, *settings, *words, "--output=out")
    assert status == 2 and told in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"labels": np.eye(10)[np.arange(20) % 10]}, "labels"),
        ({"labels": np.eye(10, dtype=int)[np.arange(20) % 10]}, "labels"),
        ({"images": np.zeros((20, 3, 8, 8), np.uint8)}, "channels come last: images.transpose(0, 2, 3, 1)"),
        ({"labels": np.array([str(n) for n in range(20)], object)}, "plain arrays"),
        (b"PK\x03\x04 half a file", "own.npz"),
        (b"", "own.npz"),
    ],
    ids=["one-hot", "one-hot integers", "NCHW", "pickled", "truncated", "empty"],
)
def test_images_that_cannot_be_read_are_one_line(capsys, monkeypatch, tmp_path, content, told):
    if isinstance(content, bytes):
        (tmp_path / "own.npz").write_bytes(content)
    else:
        arrays = {"images": np.zeros((20, 8, 8, 1), np.uint8), "labels": np.arange(20) % 10}
        np.savez(tmp_path / "own.npz", **(arrays | content))
    words = ["--model=linear_model:logits", *COMMON[1:], "--images=npz:own.npz", "--output=out"]
    status, _, error = run(capsys, monkeypatch, *words)
    assert status == 2 and told in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.jax", "model.onnx", "pickled.jax"])
def test_a_file_that_holds_no_model_is_one_line(capsys, monkeypatch, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps({"a": 1}))
    status, _, error = run(capsys, monkeypatch, f"--model={name}", *COMMON, "--output=out")
    assert status == 2 and name in error and "cannot be read" in error and error.count("\n") == 1, error
    assert not (tmp_path / "out").exists()


def test_the_command_is_kept_without_folders_of_this_machine():
    typed = [
        "--model=a:b",
        "--images=npz:/home/ann/x.npz",
        "--output=/tmp/out",
        "--eps=8/255",
        "--data_dir=~/data/tfds",
    ]
    assert cli.command("audit", typed) == (
        "python -m clead_jax.audit --model=a:b --images=npz:x.npz --output=out --eps=8/255 --data_dir=tfds"
    )
