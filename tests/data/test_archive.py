"""Arrays of .npz files that stay on disk, and data sets made of them."""

import numpy as np
import pytest
from PIL import Image

from clead_jax.core.rows import on_disk, take
from clead_jax.data import archive, load
from clead_jax.data.splits import train_validation_split

RANDOM = np.random.RandomState(0)
IMAGES = RANDOM.randint(0, 256, (50, 6, 5, 3)).astype(np.uint8)
LABELS = np.arange(50) % 5
CONTENTS = {"images": IMAGES, "labels": LABELS.astype(np.int64), "word": np.array("a word"), "none": np.zeros((0, 2))}


@pytest.fixture
def file(tmp_path):
    np.savez(tmp_path / "mine.npz", **CONTENTS)
    return tmp_path / "mine.npz"


@pytest.mark.parametrize(("limit", "mapped"), [(0, {"images"}), (1000, {"images"}), (10**6, set())])
def test_large_arrays_of_bytes_stay_on_disk(file, limit, mapped):
    found = archive.arrays(file, limit)
    assert {key for key, array in found.items() if on_disk(array)} == mapped
    for key, array in CONTENTS.items():
        assert found[key].dtype == array.dtype
        np.testing.assert_array_equal(found[key], array)


def test_what_cannot_be_mapped_is_read(tmp_path):
    named = {"columns": np.asfortranarray(IMAGES), "floats": IMAGES / 255}
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "mine.npz", **named, images=IMAGES)
        found = archive.arrays(tmp_path / "mine.npz", 0)
        assert on_disk(found["images"]) == (save is np.savez)
        assert not on_disk(found["columns"]) and not on_disk(found["floats"])
        for key, array in named.items():
            np.testing.assert_array_equal(found[key], array)


def test_what_is_written_is_what_numpy_reads(file, tmp_path):
    rows = RANDOM.permutation(50)[:40]
    mapped = take(archive.arrays(file, 0)["images"], rows)
    with (tmp_path / "written.npz").open("wb") as out:
        archive.write(out, CONTENTS | {"images": mapped})
    with np.load(tmp_path / "written.npz") as stored:
        assert set(stored.files) == set(CONTENTS)
        for key, array in (CONTENTS | {"images": IMAGES[rows]}).items():
            np.testing.assert_array_equal(stored[key], array)


def test_space_beyond_memory_leaves_no_file(tmp_path):
    make = archive.space(tmp_path / "cache", 100)
    assert not on_disk(make((10, 10))) and not (tmp_path / "cache").exists()
    array = make((10, 11))
    array[:] = 7
    assert on_disk(array) and (array == 7).all() and not list((tmp_path / "cache").iterdir())
    with pytest.raises(OSError):
        make((1 << 50,))


def same(small, large):
    """Whether a data set is on disk, and of the same images, labels and fingerprints as one in memory."""
    assert on_disk(small.train_images) and not on_disk(large.train_images)
    assert small.fingerprints == large.fingerprints and str(small).startswith(str(large).partition("; held")[0])
    for ours, theirs in zip(train_validation_split(small, 0.2), train_validation_split(large, 0.2), strict=True):
        assert on_disk(ours.images)
        np.testing.assert_array_equal(np.asarray(ours.images), theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    return True


def test_a_file_of_ones_own(file, tmp_path):
    np.savez(file, images=IMAGES, labels=LABELS)
    assert same(load(f"npz:{file}", in_memory=0), load(f"npz:{file}"))
    halves = {"train_images": IMAGES[:40], "train_labels": LABELS[:40], "test_images": IMAGES[40:]}
    np.savez(file, **halves, test_labels=LABELS[40:])
    assert same(load(f"npz:{file}", in_memory=1500), load(f"npz:{file}"))
    np.savez_compressed(file, images=IMAGES, labels=LABELS)
    assert "held in memory: only uint8 images of an uncompressed file stay on disk" in str(
        load(f"npz:{file}", in_memory=0)
    )


def test_pictures_are_decoded_into_a_file_and_mapped_from_the_cache(tmp_path):
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / "pictures" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "pictures" / str(label) / f"{number}.png")
    name, cache = f"folder:{tmp_path / 'pictures'}", str(tmp_path / "cache")
    whole = load(name, cache_dir=str(tmp_path / "other"))
    for _ in range(2):  # decoded, then from the cache
        assert same(load(name, cache_dir=cache, in_memory=100), whole)
    assert [path.suffix for path in (tmp_path / "cache" / "data").iterdir()] == [".npz"]
    assert not on_disk(load(name, cache_dir=cache).train_images)
