"""What was measured or trained on other images or labels is not taken for these; data that moved are found or named."""

import json
import shutil

import numpy as np
import pytest
import speck

from clead_jax import compare, evaluate, load, main, sweep
from clead_jax.audit import audit
from clead_jax.config import cli

RANDOM = np.random.RandomState(0)
LABELS = np.arange(80) % 2
IMAGES = np.clip(RANDOM.randint(30, 220, (2, 8, 8, 1))[LABELS] + 20 * RANDOM.randn(80, 8, 8, 1), 0, 255)
ARRAYS = {
    **{"train_images": IMAGES[:48].astype(np.uint8), "train_labels": LABELS[:48]},
    **{"test_images": IMAGES[48:].astype(np.uint8), "test_labels": LABELS[48:]},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a data set, and a run that was trained and evaluated on it."""
    root = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLEAD_JAX_CACHE", str(root / "cache"))
        np.savez(root / "mine.npz", **ARRAYS)
        main.main(command(root, "stages=baseline,evaluate,report"))
    return root


@pytest.fixture
def root(made, tmp_path, monkeypatch):
    """A copy that a test may change; this machine knows of no other place of the data."""
    monkeypatch.setenv("CLEAD_JAX_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(made, tmp_path / "x", ignore=shutil.ignore_patterns("cache"))


def command(root, *more):
    own = {"data.name": f"npz:{root}/mine.npz", "data.train_size": 0, "data.test_size": 0}
    plain = speck.SETTINGS | own | {"baseline.epochs": 2, "evaluation.attacks": "fgsm", "evaluation.curve": "0,0.1"}
    words = (f"--config.{key}={value}" for key, value in plain.items())
    return ["main", "--config=configs/quickstart.py", f"--workdir={root}/run", *words, *(f"--config.{m}" for m in more)]


def again(root, *more):
    evaluate.main(["evaluate", f"--workdir={root}/run", "--models=baseline", "--attacks=fgsm", *more])


def clean(root):
    with np.load(root / "run/evaluation/per_example.npz") as records:
        return records["baseline/clean"].mean()


def test_what_is_unchanged_is_reused(root, capsys):
    again(root)
    assert "baseline/fgsm is measured already" in capsys.readouterr().out


def change(root, **arrays):
    np.savez(root / "mine.npz", **(ARRAYS | arrays))


PIXEL = ARRAYS["test_images"].copy()
PIXEL[5, 0, 0, 0] ^= 1


@pytest.mark.parametrize("arrays", [{"test_labels": 1 - LABELS[48:]}, {"test_images": PIXEL}], ids=["labels", "pixel"])
def test_other_test_data_are_measured_again(root, capsys, arrays):
    before = clean(root)
    change(root, **arrays)
    again(root)
    said = capsys.readouterr().out
    assert "of npz:mine.npz have changed" in said and "measured already" not in said
    assert clean(root) == pytest.approx(before if "test_images" in arrays else 1 - before)
    again(root)
    assert "have changed" not in capsys.readouterr().out


def test_results_of_an_earlier_version_know_their_labels(root, capsys):
    path = root / "run/evaluation/results.json"
    results = json.loads(path.read_text())
    del results["data_fingerprint"]
    path.write_text(json.dumps(results))
    again(root)
    assert "measured already" in capsys.readouterr().out
    results.pop("data_fingerprint", None)
    path.write_text(json.dumps(results))
    change(root, test_labels=1 - LABELS[48:])
    again(root)
    assert "have changed" in capsys.readouterr().out


@pytest.mark.parametrize("changed", ["train_images", "train_labels"])
def test_other_data_to_train_on_are_refused(root, changed):
    array = ARRAYS[changed].copy()
    array[[0, 1]] = array[[1, 0]]  # the same mean, the same classes
    change(root, **{changed: array})
    for door in (lambda: main.main(command(root, "stages=baseline,evaluate")), lambda: again(root)):
        with pytest.raises(ValueError, match=r"mine\.npz has changed since .*baseline.*train split: ") as caught:
            door()
        assert "\n" not in str(caught.value)


def test_no_path_is_kept_in_the_work_directory(root, made):
    files = [path for path in (root / "run").rglob("*") if path.is_file()]
    assert {"config.json", "step.json", "results.json", "index.html"} <= {path.name for path in files}
    assert not [path for path in files if str(made).encode() in path.read_bytes()]
    assert not [path for path in files if path.suffix in (".json", ".html") and "../" in path.read_text()]
    saved = json.loads((root / "run/config.json").read_text())
    assert saved["config"]["data"]["name"] == "npz:mine.npz" and len(saved["train_fingerprint"]) == 16


def test_data_that_moved_are_named_or_remembered(root, monkeypatch):
    (root / "far/away").mkdir(parents=True)
    (root / "mine.npz").rename(root / "far/away/mine.npz")
    with pytest.raises(ValueError, match=r"--config\.data\.name=npz:FILE"):
        again(root)
    monkeypatch.setenv("HOME", str(root))
    again(root, "--config.data.name=npz:~/far/away/mine.npz")
    again(root)  # this machine has read them before
    (root / "far/away/mine.npz").rename(root / "far/other.npz")
    again(root, f"--config.data.name=npz:{root}/far/other.npz", "--fresh")
    change(root / "far", train_labels=1 - LABELS[:48])
    with pytest.raises(ValueError, match="train split"):
        again(root, f"--config.data.name=npz:{root}/far/mine.npz")


def test_a_sweep_sees_other_data_and_comparisons_do_too(root, monkeypatch):
    from clead_jax.config import grid

    words = command(root, "stages=baseline,evaluate")[1:]
    runs, *_ = grid.plan(["sweep", *(w for w in words if "workdir" not in w), "--seeds=0", f"--workdir={root}/s"])
    before = sweep.settings(runs[0])
    assert str(root) not in json.dumps(before) and before == sweep.settings(runs[0])
    shutil.copytree(root / "run", root / "b")
    change(root, test_images=PIXEL)
    assert sweep.settings(runs[0]) != before
    again(root)
    with pytest.raises(ValueError, match="differ"):
        compare.main(["compare", f"--workdirs={root}/run,{root}/b", f"--output={root}/both"])


def test_a_tilde_is_expanded_wherever_a_path_begins(monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    words = {
        "--workdir=~/x": "--workdir=/h/x",
        "--output=~": "--output=/h",
        "--workdirs=~/x,~/y*": "--workdirs=/h/x,/h/y*",
        "--models=a=~/x:probe,b=both(~/y:probe+~/z:probe)": "--models=a=/h/x:probe,b=both(/h/y:probe+/h/z:probe)",
        "--config.data.name=folder:~/x": "--config.data.name=folder:/h/x",
        "--config=~/c.py:ce": "--config=/h/c.py:ce",
        "--workdir=a~/x~": "--workdir=a~/x~",
        "~/x": "/h/x",
    }
    assert cli.expanded(list(words)) == list(words.values())


def test_calls_expand_a_tilde_too(root, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(root))
    monkeypatch.chdir(tmp_path)
    model = load("~/run", "baseline")
    audit(
        model,
        ARRAYS["test_images"],
        ARRAYS["test_labels"],
        budget="5passes",
        checks=False,
        path="~/p.npz",
        batch_size=16,
    )
    compare.main(["compare", "--workdirs=~/run", "--output=~/both"])
    assert (root / "p.npz").exists() and (root / "both/compare.md").exists() and not list(tmp_path.glob("~*"))
