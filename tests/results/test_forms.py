"""Forms: what is right passes, what is not is named in one line; archives are no reason to take memory."""

import json
import zipfile

import numpy as np
import pytest

from clead_jax.results import files, forms, jsonl

WRONG = {
    "a text for a number": ({"a": "1"}, {"a": forms.Number()}, "a is '1'; it must be a number"),
    "a yes for a number": ({"a": True}, {"a": forms.COUNT}, "a is True; it must be a whole number from 0 on"),
    "a half for a count": ({"a": 0.5}, {"a": forms.COUNT}, "a is 0.5"),
    "above one": ({"a": {"b": 1.5}}, {"a": {str: forms.SHARE}}, "a.b is 1.5; it must be a number in [0, 1]"),
    "not finite": ({"a": float("nan")}, {"a": forms.AMOUNT}, "a is nan"),
    "too large": ({"a": 10**400}, {"a": forms.AMOUNT}, "a is 1000"),
    "missing": ({}, {"a": str}, "lacks 'a'"),
    "null": ({"a": None}, {"a": str}, "a is None; it must be text"),
    "no list": ({"a": {}}, {"a": [str]}, "a is {}; it must be a list"),
    "in a list": ({"a": ["x", 1]}, {"a": [str]}, "a[1] is 1"),
    "of another length": ({"a": [1.0]}, {"a": [forms.SHARE, forms.SHARE]}, "a list of 2"),
    "none of these": ({"a": "good"}, {"a": {"fail", "ok"}}, "a is 'good'; it must be 'fail' or 'ok'"),
    "a list for one of these": ({"a": ["ok"]}, {"a": {"fail", "ok"}}, "a is ['ok']"),
    "a long text": ({"a": "x" * 10**6}, {"a": str}, "it must be text"),
    "another field": ({"a": "x", "b": "y"}, {"a": str, str: forms.AMOUNT}, "b is 'y'"),
}


@pytest.mark.parametrize(("value", "form", "said"), WRONG.values(), ids=WRONG)
def test_what_is_not_of_the_form_is_named(value, form, said):
    with pytest.raises(ValueError, match=r" ") as error:
        forms.check(value, form)
    assert said in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("made", [{}, {"settings": 0.5, "fingerprint": "f"}, {"settings": {}}, 0.5])
def test_how_transferred_images_were_made_is_whole(made):
    own = {"accuracy": {"fgsm": 0.5}, "source": "baseline"}
    whole = {"fgsm": {"settings": {"steps": 1}, "fingerprint": "f"}}
    forms.check(
        {"protocols": {"paper": {"defended": own | {"made_by": whole}}}}, {"protocols": forms.RESULTS["protocols?"]}
    )
    with pytest.raises(ValueError, match="fgsm"):
        forms.check(
            {"protocols": {"paper": {"defended": own | {"made_by": {"fgsm": made}}}}},
            {"protocols": forms.RESULTS["protocols?"]},
        )


def test_what_is_of_the_form_passes():
    form = {"a": (forms.SHARE, None), "b?": [str], "c?": object, str: forms.COUNT}
    for value in ({"a": None}, {"a": 1}, {"a": 0.5, "b": [], "c": [{"x": None}], "d": 3}):
        forms.check(value, form)


def test_a_nested_value_has_a_bottom(tmp_path):
    for text in ("[" * 100_000, '{"a": ' * 500 + "1" + "}" * 500):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=r"a\.json is damaged"):
            files.load_json(tmp_path / "a.json", {str: object})


@pytest.mark.parametrize("content", [b"[1]", b'"x"', b"3", b"null", b"\xef\xbb\xbf{}", b"\xff"])
def test_a_file_holds_an_object(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        files.load_json(tmp_path / "a.json")
    (tmp_path / "m.jsonl").write_bytes(content + b"\n")
    with pytest.raises(ValueError, match=r"m\.jsonl, line 1"):
        jsonl.read(tmp_path / "m.jsonl", forms.METRICS)


# --- arrays -----------------------------------------------------------------------------------------------------------

RIGHT = {"index": np.arange(4), "label": np.zeros(4, int), "m/clean": np.ones(4, bool)}


@pytest.mark.parametrize(
    ("name", "array"),
    {
        "m/clean": np.ones(4),  # floats for bools
        "m/pgd": np.ones(4, int),
        "m/fgsm": np.ones(5, bool),
        "m/cw": np.ones((4, 1), bool),
        "index": np.arange(4.0),
        "label": np.full(4, 2**40),
    }.items(),
)
def test_records_are_bools_of_as_many_images(tmp_path, name, array):
    path = tmp_path / "per_example.npz"
    files.save_arrays(path, RIGHT)
    assert files.load_arrays(path, forms.PER_EXAMPLE).keys() == RIGHT.keys()
    files.save_arrays(path, RIGHT | {name: array})
    with pytest.raises(ValueError, match=rf"per_example\.npz is damaged .*'{name}'"):
        files.load_arrays(path, forms.PER_EXAMPLE)


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e30])
def test_pictures_and_features_are_finite(tmp_path, number):
    for form, name, array in (
        (forms.SAMPLES, "clean", np.full((2, 4, 4, 1), number)),
        (forms.EMBEDDINGS, "m", np.full((2, 4), number)),
    ):
        files.save_arrays(tmp_path / "a.npz", {"label": np.zeros(2, int), name: array})
        with pytest.raises(ValueError, match="not finite"):
            files.load_arrays(tmp_path / "a.npz", form)


def npy(shape, dtype="|b1", content=b""):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (63 - (len(text) + 10) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + content


@pytest.mark.parametrize(
    "member",
    [npy((10**12,)), npy((3,), content=b"\0"), npy((-1,), content=b"\0"), npy((10**9, 10**9, 10**9)),
     npy((1,), "|O8", b"\0" * 8), npy((2,), "<f8", b"\0" * 8), b"", b"no array", npy("os.system('x')")],
    ids=["huge", "more than it holds", "negative", "beyond all", "pickle", "half", "empty", "text", "code"],
)  # fmt: skip
def test_an_array_is_as_large_as_it_says(tmp_path, member):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as stored:
        stored.writestr("m/clean.npy", member)
    with pytest.raises(ValueError, match=r"a\.npz is damaged") as error:
        files.load_arrays(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def test_an_archive_does_not_unpack_to_much_more_than_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SURE", 1000)
    files.save_arrays(tmp_path / "a.npz", {"m/clean": np.zeros(10**6, bool)})
    with pytest.raises(ValueError, match=r"it would unpack to 1,000,"):
        files.load_arrays(tmp_path / "a.npz")
    files.save_arrays(tmp_path / "a.npz", {"m/clean": np.zeros(10**6, bool)}, compress=False)
    assert files.load_arrays(tmp_path / "a.npz")["m/clean"].shape == (10**6,)


def test_arrays_come_back_as_they_were(tmp_path):
    arrays = {
        "scalar": np.asarray(3.5), "none": np.zeros((0, 3), np.float32), "text": np.asarray("name"),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)), "big": np.arange(3, dtype=">i4"),
    }  # fmt: skip
    files.save_arrays(tmp_path / "a.npz", arrays)
    found = files.load_arrays(tmp_path / "a.npz")
    assert all(np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in arrays.items())
    assert json.dumps(found["scalar"].item()) == "3.5"
