"""A user's own images: one .npz file, or a folder with one subfolder of pictures per class.

Either may have a test split; if not, `with_test_split` holds one out.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from clead_jax.core.registry import SOURCES
from clead_jax.data.cache import cached
from clead_jax.data.dataset import Dataset, Options
from clead_jax.data.decode import decode_all, is_gray
from clead_jax.data.splits import with_test_split

MOST_CLASSES = 1_000_000  # a larger label is an error: memory is proportional to K
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@SOURCES.register("npz")
def npz(argument: str, options: Options) -> Dataset:
    """`npz:FILE` holding `train_images`, `train_labels`, `test_images`, `test_labels`, or just `images`, `labels`.

    Images [N, H, W, C] are uint8, or float in [0, 1] (rounded to 8 bits); labels int [N] in 0..K-1; `class_names` [K]
    may name the classes. Raises ValueError (one line) for anything else.
    """
    path = _existing(argument, "npz:FILE")
    name = f"npz:{path.name}"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {key: stored[key] for key in stored.files}
    except Exception as error:  # a damaged header can make zipfile and numpy raise anything
        raise ValueError(f"{path}: not a readable .npz file of plain arrays ({error})") from error

    def read(split: str) -> Iterator[np.ndarray]:
        for key, checked in ((f"{split}images", _images), (f"{split}labels", _labels)):
            if key not in arrays:
                raise ValueError(f"{path}: no array {key!r} among {', '.join(arrays) or 'none'}")
            yield checked(arrays[key], key, path)

    has_splits = "images" not in arrays
    images, labels = read("train_" if has_splits else "")
    class_names = tuple(map(str, np.ravel(arrays.get("class_names", range(labels.max(initial=0) + 1)))))
    if not has_splits:
        return with_test_split(name, images, labels, class_names)
    test_images, test_labels = read("test_")
    return Dataset(name, images, labels, test_images, test_labels, class_names)


def _existing(argument: str, usage: str) -> Path:
    path = Path(argument).expanduser()
    if not argument or not path.exists():
        raise ValueError(f"no file or folder {argument!r}; allowed: {usage} with an existing path")
    return path


def _images(images: np.ndarray, key: str, path: Path) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{path}: {key} are {images.dtype}; allowed: uint8, or float in [0, 1]")
    if not ((images >= 0) & (images <= 1)).all():  # written so that NaN fails too
        raise ValueError(f"{path}: {key} go from {images.min()} to {images.max()}; allowed: float in [0, 1], or uint8")
    return np.round(images * 255).astype(np.uint8)


def _labels(labels: np.ndarray, key: str, path: Path) -> np.ndarray:
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"{path}: {key} are {labels.dtype}; allowed: integers 0..K-1")
    outside = labels[(labels < 0) | (labels >= MOST_CLASSES)]
    if outside.size:
        raise ValueError(f"{path}: {key} hold {outside[0]}; allowed: integers 0..K-1")
    return labels.astype(np.int32)


@SOURCES.register("folder")
def pictures(argument: str, options: Options) -> Dataset:
    """`folder:DIR` with pictures in DIR/CLASS/, or in DIR/train/CLASS/ and DIR/test/CLASS/.

    Grey if every picture is, else RGB. Raises ValueError (one line) naming an empty class, a class that only test has,
    an unreadable picture, or one of another size (unless `options.image_size` is given).
    """
    root = _existing(argument, "folder:DIR").resolve()
    name = f"folder:{root.name}"
    return cached(root, name, options, lambda: _decode_folder(root, name, options.image_size))


def _decode_folder(root: Path, name: str, image_size: int | None) -> Dataset:
    has_splits = bool(_subfolders(root / "train"))  # a class may be called "train" too: then it holds no subfolders
    train = _pictures(root / "train" if has_splits else root)
    test = _pictures(root / "test") if has_splits and (root / "test").is_dir() else []
    class_names = tuple(dict.fromkeys(class_name for _, class_name in train))
    unknown = {class_name for _, class_name in test} - set(class_names)
    if unknown:
        raise ValueError(f"{root / 'test'}: class {min(unknown)!r} is not in train; allowed: {', '.join(class_names)}")
    files = [path for path, _ in train + test]
    labels = np.array([class_names.index(class_name) for _, class_name in train + test], np.int32)
    images = decode_all(files, name, 1 if all(map(is_gray, files)) else 3, image_size)
    if not test:
        return with_test_split(name, images, labels, class_names)
    n = len(train)
    return Dataset(name, images[:n], labels[:n], images[n:], labels[n:], class_names)


def _pictures(root: Path) -> list[tuple[Path, str]]:
    """Every picture with its class, sorted. Raises ValueError where there is no class, or one without pictures."""
    pictures = []
    for folder in _subfolders(root):
        paths = sorted(path for path in folder.rglob("[!.]*") if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise ValueError(f"{folder}: empty class; allowed: pictures ({' '.join(SUFFIXES)})")
        pictures += [(path, folder.name) for path in paths]
    if not pictures:
        raise ValueError(f"{root}: no subfolders; allowed: one subfolder of pictures per class")
    return pictures


def _subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("[!.]*") if path.is_dir())
