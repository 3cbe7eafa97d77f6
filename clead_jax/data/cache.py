"""Decoded data sets cached on disk, so that later starts read one file.

One uncompressed .npz per source: its checksums are verified while reading, and a rename makes writing atomic. The file
holds the fingerprint of what it was decoded from; when the source changes it is replaced.
"""

import contextlib
import hashlib
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clead_jax.core.progress import log
from clead_jax.data.dataset import Dataset, Options

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def cached(source: Path, name: str, options: Options, build: Callable[[], Dataset]) -> Dataset:
    """`build()`, or what it returned for the same `source` files and options at an earlier start."""
    source = source.resolve()
    digest = hashlib.sha256(f"{source} {options.image_size}".encode()).hexdigest()[:12]
    root = Path(options.cache_dir or os.environ.get("CLEAD_JAX_CACHE") or "~/.cache/clead_jax").expanduser()
    path = root / "data" / f"{name.replace('/', '-').replace(':', '-')}-{digest}.npz"
    fingerprint = _fingerprint(source)
    if (dataset := _read(path, name, fingerprint)) is None:
        dataset = build()
        _write(path, dataset, fingerprint)
    return dataset


def _fingerprint(source: Path) -> str:
    """Changes whenever a file or folder below `source` is added, removed or rewritten: names, sizes and times."""
    lines = []
    for folder, _, files in os.walk(source):
        lines.append(folder)
        for file in files:
            stat = os.stat(os.path.join(folder, file))
            lines.append(f"{folder} {file} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _read(path: Path, name: str, fingerprint: str) -> Dataset | None:
    """The cached data set; None if there is none of this fingerprint, or (with a warning) if the file is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            if str(stored["fingerprint"]) != fingerprint:
                return None
            arrays = {key: stored[key] for key in ARRAYS}
            return Dataset(name, **arrays, class_names=tuple(map(str, stored["class_names"])))
    except Exception as error:  # a damaged header can make zipfile and numpy raise anything
        log.warning(f"cache {path} is damaged ({error}): rebuilding it")
        return None


def _write(path: Path, dataset: Dataset, fingerprint: str) -> None:
    """Best effort: an error is a warning, for without the cache every start decodes again."""
    arrays = {key: getattr(dataset, key) for key in ARRAYS}
    partial = path.with_name(f"{path.stem}-{socket.gethostname()}-{os.getpid()}.part")  # hosts may share the folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez(file, **arrays, class_names=np.array(dataset.class_names), fingerprint=np.array(fingerprint))
        partial.replace(path)
    except OSError as error:
        log.warning(f"cannot cache {dataset.name} in {path.parent} ({error}): every start decodes it")
        with contextlib.suppress(OSError):
            partial.unlink()
