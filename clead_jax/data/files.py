"""A user's own images: one .npz file, or a folder with one subfolder of pictures per class. Labels may be missing.

Either may have a test split; if not, `with_test_split` holds one out. What is not read is said in the data set's notes.
"""

import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clead_jax.core.registry import SOURCES
from clead_jax.core.rows import on_disk
from clead_jax.data import archive
from clead_jax.data.cache import below, cached, space
from clead_jax.data.dataset import UNKNOWN, Dataset, Options, shown, to_labels
from clead_jax.data.decode import GREY, decode_all, stored_as
from clead_jax.data.splits import with_test_split

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = {  # what folders of splits are called, in capitals too, as in Hugging Face's imagefolder
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}


@SOURCES.register("npz")
def npz(argument: str, options: Options) -> Dataset:
    """`npz:FILE` holding `train_images`, `train_labels`, `test_images`, `test_labels`, or just `images`, `labels`.

    Images [N, H, W, C] are uint8, or float in [0, 1] (rounded to 8 bits); labels int [N] in 0..K-1; `class_names` [K]
    may name the classes. Without any labels: images for stages that need none. Raises ValueError (one line) for
    anything else.
    """
    path = Path(argument).expanduser()
    if not argument or not path.is_file():
        raise ValueError(f"no file {shown(argument)!r}; allowed: npz:FILE (in evaluate: --config.data.name=npz:FILE)")
    name = f"npz:{shown(path.name)}"
    try:
        arrays = archive.arrays(path, options.in_memory)
    except Exception as error:  # a damaged header can make zipfile and numpy raise anything
        raise ValueError(f"{path}: not a readable .npz file of plain arrays ({error})") from error
    splits = [""] if "images" in arrays else ["train_", "test_"]
    labelled = "class_names" in arrays or any(f"{split}labels" in arrays for split in splits)
    checks = {"images": _images} | ({"labels": to_labels} if labelled else {})
    kinds = {f"{split}{kind}": check for split in splits for kind, check in checks.items()}
    for key in kinds:
        if key not in arrays:
            raise ValueError(f"{path}: no array {key!r} among {', '.join(arrays) or 'none'}")
    found = {key: check(arrays[key], f"{path}: {key}") for key, check in kinds.items()}
    for split in [] if labelled else splits:
        found[f"{split}labels"] = np.full(len(found[f"{split}images"]), UNKNOWN, np.int32)
    (images, labels), *test = [(found[f"{split}images"], found[f"{split}labels"]) for split in splits]
    names = np.ravel(arrays.get("class_names", range(labels.max(initial=0) + 1) if labelled else ()))
    names = np.char.decode(names, "utf-8", "backslashreplace") if names.dtype.kind == "S" else names
    unread = [key for key in arrays if key not in (*kinds, "class_names")]
    notes = [f"not read: {', '.join(map(shown, unread))}"] * bool(unread)
    read = [images for key, images in found.items() if key.endswith("images") and not on_disk(images)]
    if any(images.nbytes > options.in_memory for images in read):
        notes.append("held in memory: only uint8 images of an uncompressed file stay on disk")
    notes += ["floats, rounded to 8 bits"] * any(arrays[f"{split}images"].dtype.kind == "f" for split in splits)
    class_names = tuple(map(str, names))
    if not test:
        return with_test_split(name, images, labels, class_names, tuple(notes), options.whole)
    return Dataset(name, images, labels, *test[0], class_names, tuple(notes))


def _images(images: np.ndarray, name: str) -> np.ndarray:
    if images.dtype != np.uint8:
        if not np.issubdtype(images.dtype, np.floating):
            raise ValueError(f"{name} are {images.dtype}; allowed: uint8, or float in [0, 1]")
        if not ((images >= 0) & (images <= 1)).all():  # written so that NaN fails too
            raise ValueError(f"{name} go from {images.min()} to {images.max()}; allowed: float in [0, 1], or uint8")
    levels = images if images.dtype == np.uint8 else np.round(images * 255).astype(np.uint8)
    if images.max(initial=0) and levels.max() <= 1:
        raise ValueError(f"{name} are black: at most {images.max()} of {1 if images.dtype.kind == 'f' else 255}")
    return levels


@SOURCES.register("folder")
def pictures(argument: str, options: Options) -> Dataset:
    """`folder:DIR` with pictures in DIR/CLASS/, or in DIR/train/CLASS/ and DIR/test/CLASS/ (or as in `SPLITS`).

    Pictures in a DIR without subfolders have no labels. Grey if every picture is, else RGB. Raises ValueError (one
    line) naming an empty class, a class that only test has, splits where classes should be, a picture that cannot be
    read without loss, or one of another size (unless `options.image_size` is given).
    """
    root = Path(argument).expanduser().absolute()
    if not argument or not root.is_dir():
        allowed = "folder:DIR (in evaluate: --config.data.name=folder:DIR)"
        raise ValueError(f"no folder {shown(argument)!r}; allowed: {allowed}")
    name = f"folder:{shown(root.resolve().name)}"
    return cached(root, name, options, lambda: _decode_folder(root, name, options))


def _decode_folder(root: Path, name: str, options: Options) -> Dataset:
    train_in, test_in = _splits(root)
    train, test = _unsorted(root) or _pictures(train_in), _pictures(test_in) if test_in else []
    class_names = tuple(dict.fromkeys(class_name for _, class_name in train if class_name))
    unknown = {class_name for _, class_name in test} - set(class_names)
    if unknown:
        raise ValueError(f"{test_in}: class {min(unknown)!r} is not in train; allowed: {', '.join(class_names)}")
    files = [path for path, _ in train + test]
    place = {class_name: number for number, class_name in enumerate(class_names)}
    labels = np.array([place.get(class_name, UNKNOWN) for _, class_name in train + test], np.int32)
    modes = Counter(map(stored_as, files))
    channels = 1 if all(mode.split(",")[0] in GREY for mode in modes) else 3
    images = decode_all(files, len(files), name, channels, options.image_size, space(options))
    notes = (*_notes(root, train_in, test_in, set(files)), "stored as " + " and ".join(modes))
    if not test:
        return with_test_split(name, images, labels, class_names, notes, options.whole)
    n = len(train)
    return Dataset(name, images[:n], labels[:n], images[n:], labels[n:], class_names, notes)


def _splits(root: Path) -> tuple[Path, Path | None]:
    """The folders of the train and the test split. ValueError where it is unclear which they are."""
    holding = [path for path in _subfolders(root) if _subfolders(path)]  # without subfolders it is a class, of any name
    found = {split: [path for path in holding if path.name.lower() in names] for split, names in SPLITS.items()}
    if not any(found.values()):
        return root, None
    names = [path.name for paths in found.values() for path in paths]
    if len(found["train"]) != 1 or any(len(paths) > 1 for paths in found.values()):
        allowed = f"one train and one test; to read one alone, write folder:{shown(root)}/{names[0]}"
        raise ValueError(f"{shown(root)}: folders of splits {', '.join(names)}; allowed: {allowed}")
    return found["train"][0], next(iter(found["test"] + found["validation"]), None)


def _notes(root: Path, train: Path, test: Path | None, read: set[Path]) -> Iterator[str]:
    """Which folders the splits are, and what else lies in `root`."""
    if train != root:
        yield f"splits {shown(train.name)}" + (f" and {shown(test.name)}" if test else "")
    unread = Counter[str]()
    for path, found in below(root):
        split = path.relative_to(root).parts[0]
        if train != root and split not in {train.name, test.name if test else ""}:
            unread[f"{shown(split)}/"] += 0
        elif path not in read and not stat.S_ISDIR(found.st_mode):
            unread["pictures outside of classes" if path.suffix.lower() in SUFFIXES else path.suffix or path.name] += 1
    if unread:
        yield "not read: " + ", ".join(f"{count or ''} {what}".strip() for what, count in unread.items())


def _unsorted(root: Path) -> list[tuple[Path, str]]:
    """The pictures of a folder without subfolders, of no class."""
    found = [] if _subfolders(root) else sorted(root.glob("[!.]*"))
    return [(path, "") for path in found if path.suffix.lower() in SUFFIXES and path.is_file()]


def _pictures(root: Path) -> list[tuple[Path, str]]:
    """Every picture with its class, sorted. Raises ValueError where there is no class, or one without pictures."""
    pictures, inner = [], list[set[str]]()
    for folder in _subfolders(root):
        found = [(path, each.st_mode) for path, each in below(folder)]
        for path, mode in found:
            if path.suffix.lower() in SUFFIXES and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise ValueError(f"{shown(path)}: no regular file")
        paths = [path for path, mode in found if path.suffix.lower() in SUFFIXES and stat.S_ISREG(mode)]
        if not paths:
            raise ValueError(f"{shown(folder)}: empty class; allowed: pictures ({' '.join(SUFFIXES)})")
        inner.append({path.relative_to(folder).parts[0] if path.parent != folder else "" for path in paths})
        pictures += [(path, shown(folder.name)) for path in paths]
    if not pictures:
        raise ValueError(f"{shown(root)}: no pictures; allowed: one subfolder of them per class, or none")
    if set.intersection(*inner) - {""} and len(set.union(*inner)) > 1 and "" not in set.union(*inner):
        outer, names = _subfolders(root), ", ".join(sorted(map(shown, set.union(*inner)))[:5])
        hint = f"{names}; if those are the classes, write folder:{shown(outer[0])}, else take that level away"
        raise ValueError(f"{shown(root)}: the subfolders hold the same subfolders: {hint}")
    return pictures


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("[!.]*") if path.is_dir())
