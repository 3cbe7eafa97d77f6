"""What is written comes back; what is damaged is passed over; what is killed leaves complete steps."""

import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from clead_jax.core import sharding
from clead_jax.training import checkpoint


def _state(seed=0, rows=30):
    """Two trees as training has them: nested dicts, an optimizer's tuples, several dtypes, empty and None nodes."""
    w = np.random.default_rng(seed).normal(size=(rows, 7)).astype(np.float32)
    params = {"w": w, "b": jnp.full(3, seed, jnp.bfloat16), "none": {}}
    opt = jax.tree.map(lambda leaf: leaf + seed, optax.adam(0.1).init(params))
    return {"params": params}, {"opt": opt, "step": np.full((), seed, np.int32), "on": np.array([True]), "x": None}


def _blank(tree):
    return jax.tree.map(jnp.zeros_like, tree)


def _equal(a, b):
    same = lambda x, y: x.dtype == y.dtype and np.array_equal(np.asarray(x), np.asarray(y))
    return jax.tree.structure(a) == jax.tree.structure(b) and all(map(same, jax.tree.leaves(a), jax.tree.leaves(b)))


def _save(directory, step, **options):
    checkpoint.save(directory, step, *_state(step), {"epoch": step // 10}, **options)


def _restore(directory, which="latest"):
    return checkpoint.restore(directory, *map(_blank, _state()), which)


def _is_step(restored, step):
    return restored.step == step and _equal((restored.model, restored.train), _state(step))


def test_round_trip(tmp_path):
    assert checkpoint.steps(tmp_path / "new") == []
    assert _restore(tmp_path / "new") is None and checkpoint.latest_meta(tmp_path / "new") is None
    model, train = _state(10)
    checkpoint.save(tmp_path / "new", 10, model, train, {"epoch": 1, "nested": {"a": [1, None, "x"]}})
    expected = jax.tree.map(np.copy, (model, train))
    model["params"]["w"][:] = 0  # on return the step is on disk: the arrays may change, or be donated
    restored = _restore(tmp_path / "new")
    assert restored.step == 10 and restored.meta == {"epoch": 1, "nested": {"a": [1, None, "x"]}}
    assert _equal((restored.model, restored.train), expected)


def test_model_is_restored_without_template_and_without_writing(tmp_path):
    model, train = _state(10)
    checkpoint.save(tmp_path, 10, model, train, {"epoch": np.float32(1)}, score=np.float32(0.5))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    restored, meta = checkpoint.restore_model(tmp_path, "best")
    assert _equal(restored, model) and meta == {"epoch": 1}
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}


def test_latest_and_best_are_kept(tmp_path):
    for step, score in ((10, None), (20, 0.9), (30, 0.5), (40, 0.9), (50, None), (60, 0.1), (70, None)):
        _save(tmp_path, step, score=score)
    assert checkpoint.steps(tmp_path) == [40, 60, 70]
    assert _is_step(_restore(tmp_path), 70)
    assert _is_step(_restore(tmp_path, "best"), 40)
    assert _is_step(_restore(tmp_path, 60), 60) and _is_step(_restore(tmp_path, "60"), 60)
    with pytest.raises(ValueError, match=r"no checkpoint 20 in .* it holds \[40, 60, 70\]; allowed: latest, best"):
        _restore(tmp_path, 20)
    _save(tmp_path, 80, keep_latest=1)
    assert checkpoint.steps(tmp_path) == [40, 80]


def test_without_any_score_best_is_the_latest(tmp_path):
    _save(tmp_path, 10)
    _save(tmp_path, 20)
    assert _is_step(_restore(tmp_path, "best"), 20)


def _remove(file):
    file.unlink()


def _empty(file):
    os.truncate(file, 0)


def _halve(file):
    os.truncate(file, file.stat().st_size // 2)


def _flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [_remove, _empty, _halve, _flip_a_bit])
def test_damage_to_any_file_falls_back(tmp_path, capfd, damage):
    sound = tmp_path / "sound"
    _save(sound, 10)
    _save(sound, 20)
    files = {path.relative_to(sound) for path in (sound / "20").rglob("*") if path.is_file() and path.stat().st_size}
    if damage is _flip_a_bit:
        files.remove(pathlib.Path("20/step.json"))  # the one file without a checksum
    for file in files:
        damage(shutil.copytree(sound, tmp_path / "broken") / file)
        assert _equal(checkpoint.restore_model(tmp_path / "broken")[0], _state(10)[0])
        printed = capfd.readouterr().out
        assert "checkpoint 20 in" in printed and file.name in printed and printed.count("\n") == 1
        shutil.rmtree(tmp_path / "broken")


def test_after_a_fallback_the_bad_step_is_replaced(tmp_path, capsys):
    for step, score in ((10, 0.3), (20, 0.2), (30, 0.9)):
        _save(tmp_path, step, score=score, keep_latest=3)
    shutil.rmtree(tmp_path / "30" / "model")
    assert _is_step(_restore(tmp_path), 20)
    assert _is_step(_restore(tmp_path, "best"), 10)
    assert capsys.readouterr().out.count("checkpoint 30 in") == 2
    _save(tmp_path, 25, score=0.1)
    assert checkpoint.steps(tmp_path) == [10, 20, 25]
    _save(tmp_path, 30)
    assert _is_step(_restore(tmp_path), 30)


def test_nothing_to_read_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"no checkpoint to read in .*: it holds no step"):
        checkpoint.restore_model(tmp_path)
    _save(tmp_path, 10)
    assert checkpoint.latest_meta(tmp_path) == {"epoch": 1}
    (tmp_path / "10" / "step.json").write_text("[1]")
    assert checkpoint.latest_meta(tmp_path) is None
    with pytest.raises(ValueError, match=r"^no checkpoint to read in .*: step.json is missing or unreadable; delete"):
        _restore(tmp_path)


def test_another_model_is_refused(tmp_path):
    _save(tmp_path, 10)
    model, train = _state(10, rows=31)
    with pytest.raises(ValueError, match=r"params.*30.*31|shape"):
        checkpoint.restore(tmp_path, model, train)
    with pytest.raises(ValueError, match="structure"):
        checkpoint.restore(tmp_path, model, {})


@pytest.mark.parametrize(("saved_on", "restored_on"), [(8, 1), (1, 8), (8, 2)])
def test_another_device_count(tmp_path, saved_on, restored_on):
    old, new = (sharding.replicated(sharding.data_mesh(jax.devices()[:n])) for n in (saved_on, restored_on))
    checkpoint.save(tmp_path, 10, *sharding.put(_state(10), old), {})
    restored = checkpoint.restore(tmp_path, *sharding.put(_blank(_state()), new))
    assert _is_step(restored, 10)
    assert all(leaf.sharding == new for leaf in jax.tree.leaves((restored.model, restored.train)))
    assert _equal(checkpoint.restore_model(tmp_path)[0], _state(10)[0])


@pytest.mark.parametrize(
    ("leaf", "text"), [(jax.random.key(0), r"key<fry>"), (3, "int"), ("a", "str"), (np.array(["a"]), "<U1")]
)
def test_only_numeric_arrays(tmp_path, leaf, text):
    with pytest.raises(ValueError, match=f"numeric arrays only, but train/rng is .*{text}"):
        checkpoint.save(tmp_path, 1, {}, {"rng": leaf}, {})
    assert checkpoint.steps(tmp_path) == []


def test_unwritable_directory_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot write checkpoint 10 in .*/file/ck: .*Not a directory") as error:
        _save(tmp_path / "file" / "ck", 10)
    assert "\n" not in str(error.value)


def test_full_disk_is_one_line_and_loses_nothing(tmp_path):
    _save(tmp_path, 10)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # no file may grow beyond: like a full disk
    try:
        with pytest.raises(OSError, match=r"cannot write checkpoint 20 in .*File too large") as error:
            checkpoint.save(tmp_path, 20, *_state(20, rows=10_000), {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert checkpoint.steps(tmp_path) == [10] and _is_step(_restore(tmp_path), 10)
    _save(tmp_path, 20)
    assert sorted(os.listdir(tmp_path)) == ["10", "20"]


def test_leftovers_of_a_kill_are_ignored_and_swept(tmp_path):
    _save(tmp_path, 10)
    shutil.copytree(tmp_path / "10", tmp_path / "20.part.orbax-checkpoint-tmp")
    shutil.copytree(tmp_path / "10", tmp_path / "5.part")
    assert checkpoint.steps(tmp_path) == [10] and _is_step(_restore(tmp_path, "best"), 10)
    _save(tmp_path, 20)
    assert sorted(os.listdir(tmp_path)) == ["10", "20"]


def test_ctrl_c_waits_for_the_end_of_a_save(tmp_path, monkeypatch):
    checksums = checkpoint._checksums
    monkeypatch.setattr(checkpoint, "_checksums", lambda path: signal.raise_signal(signal.SIGINT) or checksums(path))
    with pytest.raises(KeyboardInterrupt):
        _save(tmp_path, 10)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["10"] and _is_step(_restore(tmp_path), 10)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_does_not_wait(tmp_path, monkeypatch):
    twice = lambda path: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
    monkeypatch.setattr(checkpoint, "_checksums", twice)
    with pytest.raises(KeyboardInterrupt):
        _save(tmp_path, 10)
    assert checkpoint.steps(tmp_path) == []


def test_other_threads_save_too(tmp_path):
    thread = threading.Thread(target=_save, args=(tmp_path, 10))
    thread.start()
    thread.join()
    assert checkpoint.steps(tmp_path) == [10]


@pytest.mark.slow
def test_ctrl_c_at_any_moment_is_one_line(tmp_path):
    program = f"import sys\nfrom clead_jax.config import cli\ndef main(argv):\n    exec({WRITER!r})\ncli.run(main)"
    rng = np.random.default_rng(0)
    for _ in range(8):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", program, tmp_path], **pipes) as process:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.4))
            process.send_signal(signal.SIGINT)
            told, error = process.communicate()
        assert (process.returncode, error) == (
            130,
            "\nstopped by SIGINT; the same command goes on from the last checkpoint\n",
        )
        assert checkpoint.steps(tmp_path)[-1] >= int((told.split() or [0])[-1])


WRITER = """
import sys
import numpy as np
from clead_jax.training import checkpoint
step = (checkpoint.steps(sys.argv[1]) or [0])[-1]
while True:
    step += 1
    w = np.random.default_rng(step).normal(size=1_000_000)
    checkpoint.save(sys.argv[1], step, {"w": w}, {"w": -w}, {"step": step}, score=float(step % 5))
    print(step, flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_moment_the_newest_step_is_complete(tmp_path):
    rng = np.random.default_rng(0)
    newest = 0
    for _ in range(10):
        with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
            told = int(process.stdout.readline())
            time.sleep(rng.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            told = max([told, *map(int, process.stdout.read().split())])
        blank = {"w": np.zeros(1_000_000)}
        for which in ("latest", "best", *checkpoint.steps(tmp_path)):
            restored = checkpoint.restore(tmp_path, blank, blank, which)
            expected = np.random.default_rng(restored.step).normal(size=1_000_000)
            assert restored.meta == {"step": restored.step}
            assert np.array_equal(restored.model["w"], expected) and np.array_equal(restored.train["w"], -expected)
        assert checkpoint.steps(tmp_path)[-1] >= told > newest, "a step that save returned from is lost"
        newest = told
    checkpoint.save(tmp_path, 10**6, blank, blank, {})
    assert all(path.name.isdigit() for path in pathlib.Path(tmp_path).iterdir())


def test_every_flip_of_step_json_is_seen(tmp_path):
    _save(tmp_path, 1)
    _save(tmp_path, 2)
    file = tmp_path / "2" / "step.json"
    whole = file.read_bytes()
    content = json.loads(whole)
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            same = json.loads(file.read_bytes()) == content
        except ValueError:
            same = False
        assert same or checkpoint._damage(tmp_path / "2"), place
    for change in ({"score": 9.0}, {"meta": {}}, {"sha256": {}}, {"more": 1}, {"digest": None}, {"meta": 3}):
        file.write_text(json.dumps(content | change))
        assert checkpoint._damage(tmp_path / "2"), change
    assert _restore(tmp_path).step == 1
    file.write_bytes(whole)
    assert _restore(tmp_path).step == 2


def test_a_step_of_an_earlier_version_has_no_checksum_of_itself(tmp_path):
    _save(tmp_path, 1)
    file = tmp_path / "1" / "step.json"
    content = json.loads(file.read_text())
    del content["digest"]
    file.write_text(json.dumps(content))
    assert _restore(tmp_path).step == 1
    (tmp_path / "²").mkdir()  # no step, though a digit
    assert checkpoint.steps(tmp_path) == [1]


def test_a_name_in_step_json_does_not_break_the_line(tmp_path):
    _save(tmp_path, 1)
    file = tmp_path / "1" / "step.json"
    content = json.loads(file.read_text())
    del content["digest"]
    content["sha256"]["train/a\nb"] = content["sha256"].popitem()[1]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"train/a\\nb is missing") as caught:
        checkpoint.restore_model(tmp_path)
    assert "\n" not in str(caught.value)
