"""Files are replaced whole, and a damaged one is named."""

import numpy as np
import pytest

from clead_jax.results import files, jsonl


def test_what_is_saved_is_read(tmp_path):
    files.save_json(tmp_path / "new/a.json", {"x": [1, 2.5, "three"]})
    arrays = {"a/b": np.arange(3), "flag": np.array([True])}
    for compress in (True, False):
        files.save_arrays(tmp_path / "new/b.npz", arrays, compress)
        found = files.load_arrays(tmp_path / "new/b.npz")
        assert found.keys() == arrays.keys() and all(np.array_equal(found[k], arrays[k]) for k in arrays)
    assert files.load_json(tmp_path / "new/a.json") == {"x": [1, 2.5, "three"]}
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.json", "b.npz"}  # no half of a file


def test_no_file_is_empty(tmp_path):
    assert files.load_json(tmp_path / "a.json") == {} and files.load_arrays(tmp_path / "b.npz") == {}
    assert jsonl.read(tmp_path / "c.jsonl") == []


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    files.save_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        files.save_json(tmp_path / "a.json", {"x": object()})
    assert files.load_json(tmp_path / "a.json") == {"x": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"PK\x03\x04 half a file"])
def test_damage_is_named_in_one_line(tmp_path, content):
    for name, load in (("a.json", files.load_json), ("b.npz", files.load_arrays)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is damaged") as error:
            load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_line_without_its_end_is_left_out(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"a": ')
    assert jsonl.read(path) == [{"a": 1}, {"a": 2}]
    path.write_text('{"a": 1}\n{"a": \n{"a": 3}\n')
    with pytest.raises(ValueError, match="line 2, is not valid JSON"):
        jsonl.read(path)
