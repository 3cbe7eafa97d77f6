"""Training images beyond `data.resident_limit`: the same weights, to the bit, as if the devices held them all."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import speck
from marks import slowly
from reading import same

from clead_jax import main
from clead_jax.data import load
from clead_jax.experiment import builders
from clead_jax.training import checkpoint, loop

LIMIT = 1000  # bytes; the training images below are 4,096
SHORT = {"stages": "baseline,pretrain"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The digits as a file of a user's own, and two hundred more without labels."""
    folder, found = tmp_path_factory.mktemp("digits"), load("digits")
    halves = {"train_images": found.train_images[:800], "train_labels": found.train_labels[:800]}
    np.savez(folder / "mine.npz", **halves, test_images=found.test_images, test_labels=found.test_labels)
    np.savez(folder / "more.npz", images=found.train_images[800:1000])
    return folder


@pytest.fixture
def start(digits):
    """Trains in a work directory, with so many bytes on the devices."""

    def run(workdir, limit, **more):
        settings = {"data.name": f"npz:{digits}/mine.npz", "data.resident_limit": limit, **SHORT, **more}
        main.main(speck.command(workdir, **settings))
        return workdir

    return run


def weights(workdir, stage="pretrain"):
    return checkpoint.restore_model(builders.checkpoint_dir(str(workdir), stage), "latest")[0]


def metrics(workdir):
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_s", "seconds")} for line in found]


CASES = {
    "views made in every step, and extra images": {"data.extra": "npz:{digits}/more.npz", "data.extra_share": 0.25},
    "views made before": {"views": "clean,static(fgsm)", "pretrain.ascend": "baseline"},
    "clusters as labels": {"pretrain.pseudo_labels": "baseline", "pretrain.positives": "class"},
}


@pytest.mark.parametrize("case", slowly(CASES, [*CASES][:1]))
def test_streamed_training_equals_resident_training(start, digits, tmp_path, capsys, case):
    more = {key: str(value).format(digits=digits) for key, value in CASES[case].items()}
    resident = start(tmp_path / "resident", 10**9, **more)
    assert "batch by batch" not in capsys.readouterr().out
    streamed = start(tmp_path / "streamed", LIMIT, **more)
    shown = capsys.readouterr().out
    assert "baseline: 4,096 bytes of images, streamed from disk batch by batch" in shown
    for stage in ("baseline", "pretrain"):
        assert same(weights(streamed, stage), weights(resident, stage))
    assert metrics(streamed) == metrics(resident)


class Seen:
    """The largest array of bytes on a device, looked at before every step."""

    def __init__(self, monkeypatch):
        self.largest, due = 0, loop.stopping.due

        def look():
            here = [
                shard.data.nbytes for a in jax.live_arrays() if a.dtype == np.uint8 for shard in a.addressable_shards
            ]
            self.largest = max(here, default=0)
            return due()

        monkeypatch.setattr(loop.stopping, "due", look)


def test_more_images_than_the_devices_may_hold(start, tmp_path, monkeypatch):
    """Nothing on a device is larger than its part of a batch: two images of 64 bytes."""
    seen = Seen(monkeypatch)
    start(tmp_path / "streamed", LIMIT, stages="baseline")
    assert seen.largest == 2 * 64
    start(tmp_path / "resident", 10**9, stages="baseline")
    assert seen.largest == 64 * 64 > LIMIT


def stop():
    raise KeyboardInterrupt


def test_stopped_inside_an_epoch_and_resumed_on_the_other_side_of_the_limit(start, tmp_path, monkeypatch):
    """What is saved does not tell where the images were."""
    straight, stopped = start(tmp_path / "straight", LIMIT), tmp_path / "stopped"
    for limit, last in ((LIMIT, 3), (10**9, 6)):  # of eight steps, four in an epoch
        left = iter([False, False, True])
        with monkeypatch.context() as patched, pytest.raises((KeyboardInterrupt, SystemExit)):
            patched.setattr(loop, "stopping", SimpleNamespace(due=lambda left=left: next(left), check=stop))
            start(stopped, limit)
        assert checkpoint.steps(builders.checkpoint_dir(str(stopped), "baseline"))[-1] == last
    start(stopped, LIMIT)
    for stage in ("baseline", "pretrain"):
        assert same(weights(stopped, stage), weights(straight, stage))
    assert metrics(stopped) == metrics(straight)


def test_neighbours_are_refused_in_one_line(start, tmp_path):
    more = {"pretrain.views": "clean,neighbour,fgsm", "pretrain.neighbours": "baseline"}
    said = r"pretrain.neighbours is 'baseline': .* these are 4,096 bytes and data.resident_limit is 1,000; raise it"
    with pytest.raises(ValueError, match=said):
        start(tmp_path / "run", LIMIT, **more)
    assert not (tmp_path / "run").exists()
