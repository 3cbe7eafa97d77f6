"""The embedded digits, and a user's own images: what is read, and the one line that every kind of bad input gets."""

import re

import numpy as np
import pytest
from PIL import Image

from clead_jax.core.registry import SOURCES
from clead_jax.data import load, sources
from clead_jax.data.dataset import Dataset


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEAD_JAX_CACHE", str(tmp_path / "cache"))


def fails(name, *fragments, **options):
    """Asserts that loading `name` raises a one-line ValueError that holds every fragment."""
    with pytest.raises(ValueError) as caught:
        load(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not [fragment for fragment in fragments if str(fragment) not in message], message


# --- digits and names


def test_digits_are_scikit_learns_split_once_and_for_all():
    digits = load("digits")
    assert digits.train_images.shape == (1437, 8, 8, 1)
    assert digits.test_images.shape == (360, 8, 8, 1)
    assert (digits.num_classes, digits.image_shape, digits.class_names[3]) == (10, (8, 8, 1), "3")
    assert (digits.train_images.dtype, digits.train_labels.dtype) == (np.uint8, np.int32)
    assert len(np.unique(digits.train_images)) == 17
    assert (digits.train_images.min(), digits.train_images.max()) == (0, 255)
    assert np.bincount(digits.test_labels).min() >= 35
    assert digits.test_labels[:10].tolist() == [4, 5, 6, 9, 4, 7, 8, 9, 9, 6]
    assert int(digits.test_images.sum()) == 1781019


def test_digits_look_like_their_labels():
    digits = load("digits")
    means = np.stack([digits.train_images[digits.train_labels == k].mean(0).ravel() for k in range(10)])
    distances = ((digits.test_images.reshape(-1, 1, 64) - means) ** 2).sum(-1)
    assert (distances.argmin(1) == digits.test_labels).mean() > 0.85


def test_an_unknown_name_lists_the_known_ones(tmp_path):
    fails("cifar-10", "'cifar-10'", "did you mean 'cifar10'?", "digits", "folder", "npz", data_dir=str(tmp_path))
    fails("digits:8", "takes no argument", "'8'")


def test_a_new_source_is_one_decorator(monkeypatch):
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))
    images, labels = np.zeros((4, 2, 2, 1), np.uint8), np.array([0, 1, 0, 1], np.int32)

    @SOURCES.register("mine")
    def mine(argument, options):
        return Dataset(argument, images, labels, images, labels + int(argument), ("a", "b"))

    assert sources.load("mine:0").name == "0"
    fails("mine:1", "label 2", "0..1")  # what a source returns is checked


# --- npz


def arrays(count=20, **changes):
    """A good file's arrays: two classes, 4 x 4 RGB; `changes` replace arrays, None removes one."""
    random = np.random.RandomState(0)
    images, labels = random.randint(0, 256, (count, 4, 4, 3), np.uint8), np.arange(count) % 2
    good = {"train_images": images, "train_labels": labels, "test_images": images[:6], "test_labels": labels[:6]}
    return {key: value for key, value in (good | changes).items() if value is not None}


def npz(tmp_path, **contents):
    np.savez(tmp_path / "mine.npz", **contents)
    return f"npz:{tmp_path / 'mine.npz'}"


def test_npz_as_it_is(tmp_path):
    dataset = load(npz(tmp_path, **arrays(), class_names=np.array(["cat", "dog"])))
    np.testing.assert_array_equal(dataset.train_images, arrays()["train_images"])
    np.testing.assert_array_equal(dataset.test_labels, arrays()["test_labels"])
    assert (dataset.name, dataset.class_names, dataset.test_labels.dtype) == ("npz:mine.npz", ("cat", "dog"), np.int32)


def test_npz_of_floats_is_rounded_to_8_bits(tmp_path):
    good = arrays()
    dataset = load(npz(tmp_path, **arrays(train_images=(good["train_images"] / 255).astype(np.float32))))
    np.testing.assert_array_equal(dataset.train_images, good["train_images"])


def test_npz_without_a_test_split_gets_one(tmp_path):
    images = np.arange(50, dtype=np.uint8).reshape(50, 1, 1, 1)
    dataset = load(npz(tmp_path, images=images, labels=np.arange(50) % 5))
    assert np.bincount(dataset.test_labels).tolist() == [2] * 5
    assert sorted([*dataset.train_images.ravel(), *dataset.test_images.ravel()]) == list(range(50))
    again = load(npz(tmp_path, images=images, labels=np.arange(50) % 5))
    np.testing.assert_array_equal(again.test_images, dataset.test_images)


def test_npz_without_labels(tmp_path):
    images = np.arange(50).reshape(50, 1, 1, 1).astype(np.uint8)
    dataset = load(npz(tmp_path, images=images))
    assert dataset.class_names == () and len(dataset.train_labels) == 40 and (dataset.test_labels == -1).all()
    assert "without labels" in str(dataset)
    np.testing.assert_array_equal(load(npz(tmp_path, images=images), whole=True).train_images, images)
    split = load(npz(tmp_path, train_images=images, test_images=images[:5]))
    assert (len(split.train_labels), len(split.test_labels), split.num_classes) == (50, 5, 0)
    fails(npz(tmp_path, images=images, class_names=np.array(["a", "b"])), "no array 'labels'")


FLOATS = arrays()["train_images"] / 255.0
BAD_ARRAYS = {
    "missing array": ({"test_labels": None}, ["mine.npz", "'test_labels'", "train_images"]),
    "no channels": ({"train_images": np.zeros((20, 4, 4), np.uint8)}, ["(20, 4, 4)", "[N, H, W, C]"]),
    "four channels": ({"train_images": np.zeros((20, 4, 4, 4), np.uint8)}, ["(20, 4, 4, 4)", "C = 1 or 3"]),
    "integers": ({"train_images": np.zeros((20, 4, 4, 3), np.int64)}, ["int64", "uint8"]),
    "above one": ({"train_images": FLOATS * 2}, ["train_images", "2.0", "[0, 1]"]),
    "below zero": ({"test_images": FLOATS - 0.5}, ["test_images", "-0.5", "[0, 1]"]),
    "not a number": ({"test_images": FLOATS * np.nan}, ["test_images", "nan", "[0, 1]"]),
    "other size": ({"test_images": np.zeros((6, 5, 4, 3), np.uint8)}, ["(4, 4, 3)", "(5, 4, 3)"]),
    "fewer labels": ({"train_labels": np.zeros(19, int)}, ["train", "(19,)", "(20,)"]),
    "float labels": ({"train_labels": np.zeros(20)}, ["train_labels", "float64", "integers"]),
    "negative label": ({"train_labels": np.arange(20) % 2 - 1}, ["train_labels", "-1", "0..K-1"]),
    "no label": ({"train_labels": np.arange(20) * 10**9}, ["train_labels", "1000000000", "0..K-1"]),
    "unknown label": ({"test_labels": np.full(6, 7)}, ["test", "label 7", "0..1"]),
    "label beyond names": ({"class_names": np.array(["only"])}, ["label 1", "0..0"]),
    "empty class": ({"train_labels": np.arange(20) % 2 * 2}, ["class 1", "no image"]),
    "no images": (
        {"train_images": np.zeros((0, 4, 4, 3), np.uint8), "train_labels": np.zeros(0, int)},
        ["(0, 4, 4, 3)"],
    ),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused(tmp_path, case):
    changes, fragments = BAD_ARRAYS[case]
    fails(npz(tmp_path, **arrays(**changes)), *fragments)


def test_bad_npz_files_are_refused(tmp_path):
    fails("npz:", "npz:FILE")
    fails(f"npz:{tmp_path}/none.npz", "none.npz", "npz:FILE")
    fails(npz(tmp_path, images=np.array([{}], object), labels=np.zeros(1, int)), "mine.npz", "plain arrays")
    whole = (tmp_path / "mine.npz").read_bytes()
    for broken in (b"", b"not an npz file", whole[: len(whole) // 2]):
        (tmp_path / "mine.npz").write_bytes(broken)
        fails(f"npz:{tmp_path}/mine.npz", "mine.npz")


# --- folder


def picture(path, value, size=(6, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def folder(tmp_path, *splits, per_class=5, mode="RGB"):
    """A folder of cats (dark) and dogs (bright) in each of `splits`, "" for none."""
    root = tmp_path / "pets"
    for split in splits:
        for name, base in (("cat", 10), ("dog", 100)):
            for i in range(per_class):
                picture(root / split / name / f"{i}.png", base + i if mode == "L" else (base + i, 0, 255), mode=mode)
    return root


def test_folder_of_classes(tmp_path):
    dataset = load(f"folder:{folder(tmp_path, '')}")
    assert (dataset.name, dataset.class_names, dataset.image_shape) == ("folder:pets", ("cat", "dog"), (4, 6, 3))
    assert (len(dataset.train_labels), np.bincount(dataset.test_labels).tolist()) == (8, [1, 1])
    reds = np.concatenate([dataset.train_images, dataset.test_images])[:, 0, 0, 0]
    assert sorted(reds) == [10, 11, 12, 13, 14, 100, 101, 102, 103, 104]
    assert ((dataset.train_images[:, 3, 5, 0] >= 100) == dataset.train_labels).all()
    assert (dataset.train_images[..., 2] == 255).all()


def test_folder_without_classes(tmp_path):
    for i in range(10):
        picture(tmp_path / "all" / f"{i}.png", (i, 0, 0))
    (tmp_path / "all" / "notes.txt").write_text("no picture")
    name = f"folder:{tmp_path / 'all'}"
    dataset = load(name)
    assert dataset.class_names == () and (len(dataset.train_labels), len(dataset.test_labels)) == (8, 2)
    assert set(dataset.train_labels) == {-1} and "not read: 1 .txt" in str(dataset)
    for again in range(2):  # the second time from the cache, not mixed up with the other reading
        assert load(name, whole=True).train_images[:, 0, 0, 0].tolist() == list(range(10)), again
    assert len(load(name).train_labels) == 8


def test_folder_with_its_own_test_split_in_grey(tmp_path):
    root = folder(tmp_path, "train", "test", mode="L")
    (root / "train" / "cat" / "notes.txt").write_text("no picture")
    (root / "train" / ".hidden").mkdir()
    (root / "train" / "cat" / "._0.png").write_text("what a Mac leaves in archives")
    dataset = load(f"folder:{root}")
    assert dataset.train_images[:, 0, 0, 0].tolist() == [10, 11, 12, 13, 14, 100, 101, 102, 103, 104]
    assert dataset.image_shape == (4, 6, 1)
    assert dataset.test_labels.tolist() == [0] * 5 + [1] * 5


def test_a_class_may_be_called_train(tmp_path):
    root = folder(tmp_path, "")
    (root / "dog").rename(root / "train")
    assert load(f"folder:{root}").class_names == ("cat", "train")


def test_folder_of_several_sizes_can_be_resized(tmp_path):
    root = folder(tmp_path, "")
    picture(root / "dog" / "big.jpg", (50, 60, 70), size=(40, 30))
    fails(f"folder:{root}", "big.jpg", "6x4 and 40x30", "image_size")
    dataset = load(f"folder:{root}", image_size=8)
    assert dataset.image_shape == (8, 8, 3)


def test_folder_pictures_are_read_once(tmp_path):
    root = folder(tmp_path, "")
    first = load(f"folder:{root}")
    [cache] = (tmp_path / "cache" / "data").iterdir()
    written = cache.stat().st_mtime_ns
    np.testing.assert_array_equal(load(f"folder:{root}").train_images, first.train_images)
    assert cache.stat().st_mtime_ns == written
    picture(root / "dog" / "new.png", (7, 7, 7))
    assert len(load(f"folder:{root}").train_labels) == 9  # a changed folder is read again
    assert list(cache.parent.iterdir()) == [cache]


def test_bad_folders_are_refused(tmp_path):
    root = folder(tmp_path, "train", "test")
    name = f"folder:{root}"
    picture(root / "test" / "bird" / "0.png", (0, 0, 0))
    fails(name, "test", "'bird'", "cat, dog")
    (root / "test" / "bird" / "0.png").rename(root / "test" / "dog" / "bird.png")
    (root / "test" / "bird").rename(root / "train" / "bird")
    fails(name, "train/bird", "empty class")
    (root / "train" / "bird").rmdir()
    (root / "train" / "cat" / "broken.png").write_bytes((root / "train" / "cat" / "0.png").read_bytes()[:40])
    fails(name, "cat/broken.png", "unreadable image")
    picture(root / "train" / "cat" / "broken.png", 40000, mode="I;16")
    fails(name, "cat/broken.png", "I;16", "8 bits")
    (tmp_path / "empty").mkdir()
    fails(f"folder:{tmp_path / 'empty'}", "empty", "one subfolder")
    fails("folder:", "folder:DIR")
    fails(f"folder:{tmp_path}/none", "none", "folder:DIR")


# --- the cache


@pytest.mark.parametrize("damage", ["cut off", "flipped bit", "empty", "not an npz"])
def test_a_damaged_cache_is_rebuilt_and_says_so(tmp_path, capsys, damage):
    name = f"folder:{folder(tmp_path, '')}"
    good = load(name)
    [cache] = (tmp_path / "cache" / "data").iterdir()
    contents = cache.read_bytes()
    pixel = contents.index(good.train_images.tobytes()) + 3
    flipped = contents[:pixel] + bytes([contents[pixel] ^ 1]) + contents[pixel + 1 :]
    broken = {"cut off": contents[:-100], "flipped bit": flipped, "empty": b"", "not an npz": b"PK\3\4 no"}
    cache.write_bytes(broken[damage])
    np.testing.assert_array_equal(load(name).train_images, good.train_images)
    assert re.search(rf"cache {cache} is damaged .*rebuilding", capsys.readouterr().out)
    load(name)
    assert "damaged" not in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, capsys):
    name = f"folder:{folder(tmp_path, '')}"
    (tmp_path / "file").write_text("")
    assert len(load(name, cache_dir=str(tmp_path / "file")).train_labels) == 8
    assert re.search(r"cannot cache folder:pets in .*file", capsys.readouterr().out)
