"""A reading that would lose or reinterpret information is refused in one line, or said; what was read is the key."""

import os

import numpy as np
import pytest
from PIL import Image

from clead_jax.core.registry import SOURCES
from clead_jax.data import load, located, remember
from clead_jax.data.dataset import Dataset, shown, to_labels


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEAD_JAX_CACHE", str(tmp_path / "cache"))


def refused(name, **options):
    with pytest.raises(ValueError) as caught:
        load(name, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def pictures(folder, value=10, count=5):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.new("RGB", (4, 4), (value + i, 0, 255)).save(folder / f"{i}.png")


def animals(root, *splits):
    for split in splits:
        for name, value in (("cat", 10), ("dog", 100)):
            pictures(root / split / name, value)
    return f"folder:{root}"


def npz(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


GREYS = np.arange(160, dtype=np.uint8).reshape(10, 4, 4, 1)
LABELS = np.arange(10) % 2


# --- splits and classes


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("TRAIN", "TEST"),
        ("train", "eval"),
        ("Train", "VAL"),
        ("train", "dev"),
    ],
)
def test_split_folders_by_their_usual_names(tmp_path, capsys, train, test):
    dataset = load(animals(tmp_path / "x", train, test))
    assert (dataset.class_names, len(dataset.train_labels), len(dataset.test_labels)) == (("cat", "dog"), 10, 10)
    assert f"splits {train} and {test}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "splits",
    [
        ("images",),
        ("test",),
        ("train/images",),
        ("fold1", "fold2"),
        ("train", "Training"),
        ("val", "test"),
        ("a", "b", "c"),
    ],
)
def test_levels_that_cannot_be_told_are_refused(tmp_path, splits):
    assert "folder:" in refused(animals(tmp_path / "x", *splits))


def test_a_third_split_and_other_files_are_said(tmp_path, capsys):
    name = animals(tmp_path / "x", "train", "test", "val")
    (tmp_path / "x/train/cat/notes.txt").write_text("")
    Image.new("RGB", (4, 4)).save(tmp_path / "x/train/stray.png")
    load(name)
    said = capsys.readouterr().out
    assert all(word in said for word in ("not read: ", "val/", "1 pictures outside of classes", "1 .txt")), said
    load(name)  # from the cache
    assert capsys.readouterr().out == said


def test_classes_may_have_folders_inside(tmp_path):
    for name, value in (("cat", 10), ("dog", 100)):
        pictures(tmp_path / "x" / name / "images", value)  # as tiny ImageNet has them
    assert load(f"folder:{tmp_path / 'x'}").class_names == ("cat", "dog")


@pytest.mark.parametrize("names", [["only"], ["same", "same"]])
def test_one_class_or_two_of_one_name_are_refused(tmp_path, names):
    name = npz(tmp_path / "d.npz", images=GREYS, labels=LABELS % len(set(names)), class_names=np.array(names))
    assert "two classes at least" in refused(name)


def test_one_folder_is_one_class(tmp_path):
    pictures(tmp_path / "x" / "cat")
    assert "only class 'cat'" in refused(f"folder:{tmp_path / 'x'}")


# --- pixels


def saved(path, mode, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new(mode, (4, 4)) if pixels is None else Image.fromarray(pixels, mode=None)
    image.save(path, **options)


def in_one_class(tmp_path, file, *args, **options):
    name = animals(tmp_path / "x", "")
    saved(tmp_path / "x" / "cat" / file, *args, **options)
    return name


ALPHA = np.full((4, 4, 4), 128, np.uint8)


@pytest.mark.parametrize(
    ("file", "mode", "pixels", "options", "word"),
    [
        ("rgba.png", "RGBA", ALPHA, {}, "transparent"),
        ("rgba.webp", "RGBA", ALPHA, {"lossless": True}, "transparent"),
        ("la.png", "LA", ALPHA[..., :2], {}, "transparent"),
        ("key.png", "L", None, {"transparency": 0}, "transparent"),
        ("palette.gif", "P", None, {"transparency": 0}, "transparent"),
        ("deep.png", "I;16", np.full((4, 4), 300, np.uint16), {}, "8 bits"),
        ("float.tiff", "F", np.full((4, 4), 0.5, np.float32), {}, "8 bits"),
        ("lab.tiff", "LAB", None, {}, "8 bits"),
    ],
)
def test_pixels_that_would_lose_something_are_refused(tmp_path, file, mode, pixels, options, word):
    error = refused(in_one_class(tmp_path, file, mode, pixels, **options))
    assert file in error and word in error


def test_colours_of_16_bits_are_refused(tmp_path):
    """Pillow cuts them to 8 while it reads, and says mode RGB."""
    import struct
    import zlib

    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    rows = b"".join(b"\0" + b"\1\2" * 12 for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    name = animals(tmp_path / "x", "")
    (tmp_path / "x/cat/deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert "deep.png: pixels" in (error := refused(name)) and "8 bits" in error


@pytest.mark.parametrize(
    ("file", "mode", "pixels"),
    [("opaque.png", "RGBA", np.full((4, 4, 4), 255, np.uint8)), ("p.png", "P", None), ("cmyk.jpg", "CMYK", None)],
)
def test_what_loses_nothing_is_read_and_said(tmp_path, capsys, file, mode, pixels):
    dataset = load(in_one_class(tmp_path, file, mode, pixels))
    assert dataset.image_shape == (4, 4, 3) and len(dataset.train_labels) + len(dataset.test_labels) == 11
    assert mode in capsys.readouterr().out.partition("stored as")[2]


@pytest.mark.parametrize("kind", ["EPS", "PPM", "TGA"])
def test_only_documented_formats_are_opened(tmp_path, kind):
    name = in_one_class(tmp_path, "trap.png", "RGB", format=kind)
    assert "trap.png: unreadable image" in refused(name)


BLACK = {"ones": (GREYS > 9).astype(np.uint8), "divided twice": GREYS / 255.0 / 255.0, "bits": (GREYS > 9) * 1.0 / 255}


@pytest.mark.parametrize("images", BLACK.values(), ids=BLACK)
def test_pictures_in_another_range_are_refused(tmp_path, images):
    assert "black" in refused(npz(tmp_path / "d.npz", images=images, labels=LABELS))


def test_what_was_understood_is_one_line(tmp_path, capsys):
    load(
        npz(
            tmp_path / "d.npz",
            images=GREYS / 255.0,
            labels=LABELS,
            weights=LABELS,
            class_names=np.array([b"a\n", b"b"]),
        )
    )
    said = capsys.readouterr().out
    words = (
        "8 images to train on, 2 to test on",
        "4x4 grey",
        "values 0 to 143",
        "2 classes (a\\n, b) of 4 to 4 and 1 to 1",
    )
    assert said.count("\n") == 1 and all(word in said for word in (*words, "not read: weights", "rounded to 8 bits")), (
        said
    )


# --- labels


@pytest.mark.parametrize(
    "labels",
    [
        LABELS + 2**32,
        LABELS.astype(np.uint64) + np.uint64(2**63),
        LABELS * 1.0,
        LABELS * np.nan,
        LABELS == 1,
        LABELS.astype(str),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, labels):
    assert "labels" in refused(npz(tmp_path / "d.npz", images=GREYS, labels=labels))
    with pytest.raises(ValueError, match="labels"):
        to_labels(labels, "labels")
    from clead_jax.evaluation.inputs import checked_examples

    with pytest.raises(ValueError, match="labels"):
        checked_examples(GREYS, labels)


# --- files


def test_what_is_no_file_is_named_and_not_opened(tmp_path):
    name = animals(tmp_path / "x", "")
    os.mkfifo(tmp_path / "x/cat/pipe.png")
    assert "pipe.png: no regular file" in refused(name)
    os.remove(tmp_path / "x/cat/pipe.png")
    os.mkfifo(tmp_path / "pipe.npz")
    assert "npz:FILE" in refused(f"npz:{tmp_path}/pipe.npz")
    assert "folder:DIR" in refused(f"folder:{tmp_path}/pipe.npz")
    (tmp_path / "x/cat/gone.png").symlink_to("nowhere")
    assert "leads nowhere" in refused(name)
    (tmp_path / "x/cat/gone.png").unlink()
    (tmp_path / "x/cat/self").symlink_to("self")
    assert "leads nowhere" in refused(name)
    (tmp_path / "x/cat/self").unlink()
    (tmp_path / "x/cat/up").symlink_to("..")
    assert "circle" in refused(name)


def test_names_that_are_no_text(tmp_path, capsys):
    name = animals(tmp_path / "x", "")
    os.rename(tmp_path / "x/cat/0.png", os.fsencode(tmp_path) + b"/x/cat/\xff.png")
    os.rename(tmp_path / "x/dog", os.fsencode(tmp_path) + b"/x/\xfe")
    dataset = load(name)
    assert dataset.class_names == ("cat", "\\xfe") and len(dataset.train_labels) == 8
    capsys.readouterr().out.encode()
    (tmp_path / os.fsdecode(b"x/cat/\xff.png")).write_bytes(b"")
    assert "\\xff.png: unreadable" in refused(name)
    assert shown("a\nb\udcff") == "a\\nb\\xff"


# --- what a cache and a fingerprint depend on


def test_a_cache_sees_what_links_lead_to(tmp_path):
    for name, value in zip("abc", (10, 50, 90), strict=True):
        pictures(tmp_path / "all" / name, value)
    (tmp_path / "x").mkdir()
    for name in "ab":
        (tmp_path / "x" / name).symlink_to(tmp_path / "all" / name)
    reds = lambda: sorted({int(v) for v in load(f"folder:{tmp_path / 'x'}").train_images[..., 0].ravel()})[-1]
    assert reds() < 60
    times = [(path, path.stat().st_mtime_ns) for path in (tmp_path / "all/c").iterdir()]
    (tmp_path / "x/b").unlink()
    (tmp_path / "x/b").symlink_to(tmp_path / "all" / "c")  # the same name, and files of the same names and sizes
    for path, _ in times:
        time = (tmp_path / "all/b" / path.name).stat().st_mtime_ns
        os.utime(path, ns=(time, time))  # and times
    assert reds() >= 90


def test_a_cache_sees_a_file_rewritten_in_the_same_size_and_time(tmp_path):
    name, file = animals(tmp_path / "x", ""), tmp_path / "x" / "cat" / "0.bmp"
    Image.new("RGB", (4, 4), (200, 0, 0)).save(file)
    before, first = file.stat(), load(name).fingerprint
    Image.new("RGB", (4, 4), (201, 0, 0)).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size and load(name).fingerprint != first


def test_a_fingerprint_is_of_images_labels_splits_and_names():
    make = lambda cut=6, images=GREYS, labels=LABELS, names=("a", "b"): Dataset(
        "x", images[:cut], labels[:cut], images[cut:], labels[cut:], names
    )
    pixel = GREYS.copy()
    pixel[9, 0, 0, 0] ^= 1
    others = [make(), make(7), make(images=pixel), make(labels=1 - LABELS), make(names=("a", "c"))]
    assert len({each.fingerprint for each in others}) == len(others)
    assert make().fingerprints["train"] == make(images=pixel).fingerprints["train"]
    assert make().fingerprint == make(images=GREYS.copy()).fingerprint


def test_data_are_found_again_where_they_were_read(tmp_path):
    name = npz(tmp_path / "d.npz", images=GREYS, labels=LABELS)
    dataset = load(name)
    elsewhere = f"npz:{tmp_path}/run/d.npz"
    assert located(elsewhere, dataset.fingerprints["train"]) == elsewhere
    remember(name, dataset)
    assert located(elsewhere, dataset.fingerprints["train"]) == name
    assert located(elsewhere, "another") == elsewhere
    assert located(name.replace("d.npz", "e.npz"), dataset.fingerprints["train"]).endswith("e.npz")


def test_what_a_source_of_ones_own_returns_is_checked(monkeypatch):
    monkeypatch.setattr(SOURCES, "_entries", dict(SOURCES._entries))
    SOURCES.register("one")(lambda argument, options: Dataset("one", GREYS, LABELS * 0, GREYS, LABELS * 0, ("a",)))
    assert "only class" in refused("one")
