"""Pseudo-labels and neighbours, data without labels, and more of them beside the labelled; on eight fake devices."""

import json
import shutil

import numpy as np
import pytest
import speck
from killing import killed_after_a_save
from reading import lines, same
from sklearn.cluster import KMeans

from clead_jax import config, evaluate, main
from clead_jax.experiment import builders, embeddings, extra_data, models, stages, without_labels
from clead_jax.experiment.label_use import label_use
from clead_jax.training import checkpoint, views

SCAN = "configs/pseudo_labels.py:scan-digits"
STAGES = ("first", "scan", "pretrain")
SHORT = {f"{name}__{field}": value for name in STAGES for field, value in (("epochs", 2), ("batch_size", 16))}
IMAGES = np.random.RandomState(0).randint(0, 256, (64, 8, 8, 1)).astype(np.uint8)


def start(workdir, preset=SCAN, **more):
    main.main(speck.command(workdir, preset, **((SHORT if preset == SCAN else {}) | more)))
    return workdir


def weights(workdir, stage):
    return checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), "latest")[0]


# --- pseudo-labels and neighbours -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clustered(tmp_path_factory):
    """An encoder without labels, SCAN's clusters of it, and phase 1 on these. Read only."""
    return start(tmp_path_factory.mktemp("scan") / "run", stages="first,scan,pretrain")


@pytest.fixture
def again(clustered, tmp_path):
    """The same run once more, from where `last` begins, with other settings."""

    def run(name, last="pretrain", **more):
        workdir = tmp_path / name
        if not workdir.exists():
            shutil.copytree(clustered, workdir)
            for name in STAGES[STAGES.index(last) :]:
                shutil.rmtree(workdir / "checkpoints" / name)
        return start(workdir, stages=last, **more)

    return run


def test_labels_and_neighbours_are_those_of_the_features(clustered):
    cfg, _ = config.restore(clustered)
    dataset = builders.dataset(cfg)
    images = builders.splits(cfg, dataset).train.images
    model = models.load(str(clustered), "scan", plugins="speck")
    fields, variables = dict(model.metadata["network"]), model.variables
    network, x = builders.network(fields), images / np.float32(255)
    of = lambda method: np.asarray(network.apply(variables, x, False, method=method), np.float64)
    features, found = (
        of(network.features),
        lambda by: without_labels.pseudo_labels(fields, variables, images, by, "", 3),
    )
    np.testing.assert_array_equal(found("head"), of(network.logits).argmax(-1))
    for by, z in (("kmeans", features), ("kmeans(of=projector)", of(network.embed))):
        np.testing.assert_array_equal(found(by), KMeans(10, n_init=10, random_state=3).fit_predict(z))
    near = without_labels.neighbours(fields, variables, images, 5)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = unit @ unit.T - 9 * np.eye(len(unit))
    assert near.shape == (len(images), 5) and (near != np.arange(len(near))[:, None]).all()
    np.testing.assert_allclose(
        np.take_along_axis(similar, near, 1), -np.sort(-similar, axis=1)[:, :5], rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="neighbour_count is 64, but there are only 63 other images"):
        without_labels.neighbours(fields, variables, images, 64)


@pytest.mark.slow
def test_scan_is_a_stage_and_every_switch_changes_what_is_learned(clustered, again):
    before, after, learned = (weights(clustered, name) for name in ("first", "scan", "pretrain"))
    assert not same(before["params"]["backbone"], after["params"]["backbone"])
    assert lines(clustered, "scan")[0]["passes"] == 64 * 2 and np.isfinite(lines(clustered, "scan")[0]["loss"])
    others = {
        "none": {"pretrain__pseudo_labels": ""},
        "clusters": {"pretrain__pseudo_labels_by": "kmeans"},
        "attacked": {"pretrain__ascend": "online"},
        "goal": {"pretrain__goal": "likeliest"},
        "nearest": {"last": "scan", "scan__neighbour_count": 1},
    }
    for name, more in others.items():
        last = more.get("last", "pretrain")
        assert not same(weights(again(name, **more), last), learned if last == "pretrain" else after), name


@pytest.mark.slow
@pytest.mark.parametrize("last", ["scan", "pretrain"])
def test_a_kill_changes_nothing(clustered, again, monkeypatch, last):
    with killed_after_a_save(monkeypatch):
        again("killed", last)
    assert same(weights(again("killed", last), last), weights(clustered, last))


def test_an_attack_with_a_goal_is_led_to_the_likeliest_other_class():
    logits = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    target = lambda variables, reference, base, labels: (lambda images: logits, labels)
    _, found = embeddings.to_likeliest(target)(None, None, views.Base(logits), np.array([0, 2]))
    assert found.label.tolist() == [0, 2] and found.goal.tolist() == [2, 0]


def test_no_label_is_used_before_the_probe():
    cfg = config.preset("configs/", "pseudo_labels.py", "scan-digits")
    stages.check(cfg)
    assert [label_use(cfg, name) for name in STAGES] == [[], [], []] and label_use(cfg, "probe") == ["probe"]
    cfg.pretrain.pseudo_labels = cfg.scan.neighbours = "baseline"
    assert label_use(cfg, "scan") == ["neighbours"]
    assert label_use(cfg, "pretrain") == ["pseudo-labels"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"pretrain__pseudo_labels": "nothing"},
            "pretrain.pseudo_labels is 'nothing'; it can be empty: true",
        ),
        ({"pretrain__pseudo_labels_by": "luck"}, "pseudo_labels_by is 'luck'; it can be kmeans, head"),
        ({"pretrain__pseudo_labels_by": "kmeans(of=head)"}, "of is 'head'; it can be backbone, projector"),
        ({"pretrain__goal": "cat"}, "pretrain.goal is 'cat'; it can be likeliest, or empty"),
        ({"pretrain__goal": "likeliest", "pretrain__ascend": "student"}, "embeddings have no classes"),
        ({"scan__neighbours": ""}, "the view neighbour needs scan.neighbours"),
        ({"scan__neighbours": "nothing"}, "scan.neighbours is 'nothing'; it can be empty: none, or one of"),
        ({"scan__neighbour_count": 0}, "scan.neighbour_count is 0; it must be above 0"),
        ({"scan__views": "clean"}, "scan needs an image and its neighbour, not 1 view"),
        ({"scan__loss": "scan(entropy=-1)"}, "entropy must not be negative"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, fields, said):
    with pytest.raises(ValueError, match=said) as caught:
        start(tmp_path / "run", **fields)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


# --- data without labels ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_shared_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("CLEAD_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def unlabelled(tmp_path):
    np.savez(tmp_path / "mine.npz", images=IMAGES)
    return {"data__name": f"npz:{tmp_path}/mine.npz", "data__train_size": 0, "data__test_size": 0}


ALONE = {"preset": "configs/quickstart.py", "pretrain__start": "scratch", "pretrain__epochs": 1}


def test_phase_1_needs_no_labels_and_other_stages_say_so(tmp_path, unlabelled, capsys):
    run = start(tmp_path / "run", stages="pretrain", **ALONE, **unlabelled)
    assert "64x64" not in (shown := capsys.readouterr().out) and "8x8 grey, values 0 to 255 of 255, without" in shown
    (line,) = lines(run, "pretrain")
    assert np.isfinite(line["loss"]) and line["online_accuracy"] == 0 and "val_clean" not in line
    refused = {
        "baseline": {"stages": "baseline,pretrain"},
        "evaluate": {"stages": "pretrain,evaluate"},
        "attacks": {"stages": "pretrain", "pretrain__ascend": "online"},
        "positives": {"stages": "pretrain", "pretrain__positives": "class"},
    }
    for what, more in refused.items():
        with pytest.raises(ValueError, match=rf"has no labels, which .*{what}") as caught:
            start(tmp_path / what, **ALONE | more, **unlabelled)
        assert "\n" not in str(caught.value) and not (tmp_path / what).exists()
    with pytest.raises(ValueError, match="has no labels, which evaluate needs"):
        evaluate.main(["evaluate", f"--workdir={run}", "--plugins=speck", "--models=pretrain", "--attacks=fgsm"])


@pytest.mark.slow
def test_clusters_of_data_without_labels_are_as_many_as_asked(tmp_path, unlabelled, capsys):
    more = {"stages": "first,pretrain", "pretrain__pseudo_labels": "first", "pretrain__pseudo_labels_by": "kmeans"}
    with pytest.raises(ValueError, match=r"pretrain.pseudo_labels needs data.classes, the number of clusters"):
        start(tmp_path / "none", **more, **unlabelled)
    start(tmp_path / "run", **more, **unlabelled, data__classes=4)
    assert "labels: by kmeans of first, 4 of " in capsys.readouterr().out


# --- more images beside the labelled ----------------------------------------------------------------------------------


@pytest.fixture
def extra(tmp_path):
    """Settings of phase 1 with more images, of which two are test images, nearly."""
    cfg = config.preset("configs/", "quickstart.py")
    test = builders.dataset(cfg).test_images
    np.savez(tmp_path / "more.npz", images=np.concatenate([IMAGES[:40], test[[7, 2]] ^ 3]))
    return SHORTLY | {"data__extra": f"npz:{tmp_path}/more.npz", "data__extra_share": 0.5}


SHORTLY = ALONE | {"stages": "pretrain", "pretrain__epochs": 2}


def test_extra_images_are_learned_from_and_compared_with_the_test_split(tmp_path, extra, capsys):
    plain = start(tmp_path / "plain", **SHORTLY)
    run = start(tmp_path / "run", **extra)
    said = "extra data: 2 of 360 test images have a near-duplicate in npz:more.npz; nearest, test and extra image: "
    assert said in capsys.readouterr().out
    assert not same(weights(run, "pretrain"), weights(plain, "pretrain"))
    assert lines(run, "pretrain")[0]["passes"] == lines(plain, "pretrain")[0]["passes"]
    found = json.loads((run / "extra.json").read_text())
    pairs = [(pair["test"], pair["extra"]) for pair in found["nearest"]]
    assert found["near_duplicates"] == 2 and sorted(pairs[:2]) == [(2, 41), (7, 40)] and len(pairs) == 10
    assert found["nearest"][1]["distance"] < 0.02 < 0.05 < found["nearest"][2]["distance"]
    assert str(tmp_path) not in (run / "config.json").read_text()
    np.savez(tmp_path / "more.npz", images=IMAGES)
    with pytest.raises(ValueError, match=r"npz:more.npz has changed since \S+ trained its pretrain stage"):
        start(tmp_path / "run", **extra)


@pytest.mark.slow
def test_a_kill_amid_extra_images_changes_nothing(tmp_path, extra, monkeypatch):
    straight = start(tmp_path / "straight", **extra)
    with killed_after_a_save(monkeypatch):
        start(tmp_path / "killed", **extra)
    assert same(weights(start(tmp_path / "killed", **extra), "pretrain"), weights(straight, "pretrain"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"pretrain__ascend": "online"}, "pretrain.ascend=online needs them; take contrastive"),
        ({"pretrain__ascend": "baseline", "views": "clean,static(fgsm)"}, "has the static view static"),
        ({"data__extra_share": 0.01}, "data.extra_share is 0.01: none of the 16 images of a batch"),
        ({"data__extra_share": 0}, "data.extra_share is 0.0; it is a share of a batch"),
        ({"data__extra": "npz:"}, "data.extra is 'npz:'; it lacks the path"),
    ],
)
def test_extra_images_that_cannot_be_used_are_one_line(tmp_path, fields, said):
    with pytest.raises(ValueError, match=said) as caught:
        start(tmp_path / "run", **ALONE | {"stages": "pretrain", "data__extra": "npz:more.npz"} | fields)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_the_nearest_image_is_the_nearest():
    rng = np.random.default_rng(0)
    images, among = (rng.integers(0, 256, (n, 4, 4, 3)).astype(np.uint8) for n in (20, 50))
    places, distances = extra_data.nearest(images, among)
    apart = np.sqrt((((images[:, None].astype(float) - among[None]) / 255) ** 2).mean((2, 3, 4)))
    np.testing.assert_array_equal(places, apart.argmin(1))
    np.testing.assert_allclose(distances, apart.min(1), rtol=1e-5)
    assert extra_data.nearest(among, among)[1].max() == 0
