"""Decoded data sets cached on disk, so that later starts read one file, and where a user's own data were last read.

One uncompressed .npz per source: its checksums are verified while reading, and a rename makes writing atomic. The file
holds the fingerprint of what it was decoded from; when the source changes it is replaced. Images of more bytes than
`Options.in_memory` are decoded into a file, and mapped from the cache instead of read.
"""

import contextlib
import hashlib
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from clead_jax.core.progress import log
from clead_jax.core.rows import on_disk
from clead_jax.data import archive
from clead_jax.data.dataset import Dataset, Options, shown

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
READER = 2  # raised when the same files are read as something else: caches from before are not reused


def root(options: Options) -> Path:
    """The folder of all caches: that of the options, else $CLEAD_JAX_CACHE or ~/.cache/clead_jax."""
    return Path(options.cache_dir or os.environ.get("CLEAD_JAX_CACHE") or "~/.cache/clead_jax").expanduser()


def cached(source: Path, name: str, options: Options, build: Callable[[], Dataset]) -> Dataset:
    """`build()`, or what it returned for the same `source` files and options at an earlier start."""
    source = source.resolve()
    how = f"{options.image_size}" + " whole" * options.whole
    digest = hashlib.sha256(os.fsencode(f"{source} {how}")).hexdigest()[:12]
    path = root(options) / "data" / f"{name.replace('/', '-').replace(':', '-')}-{digest}.npz"
    fingerprint = stamp(source)
    if (dataset := _read(path, name, fingerprint, options.in_memory)) is None:
        dataset = build()
        _write(path, dataset, fingerprint)
        if on_disk(dataset.train_images):  # the file that it was decoded into may go
            dataset = _read(path, name, fingerprint, options.in_memory) or dataset
    return dataset


def space(options: Options) -> Callable[[tuple[int, ...]], np.ndarray]:
    """Makes the array that images are decoded into: in memory, or too large for that, in a file beside the caches."""
    return archive.space(root(options) / "data", options.in_memory)


def below(folder: Path, above: frozenset[tuple[int, int]] = frozenset()) -> Iterator[tuple[Path, os.stat_result]]:
    """Files and folders below a folder, through links too, in order; not the hidden ones.

    Raises ValueError for a link that leads nowhere or back up, OSError for a folder that cannot be read.
    """
    here = folder.stat()
    if (here.st_dev, here.st_ino) in above:
        raise ValueError(f"{shown(folder)}: links that lead in a circle")
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        try:
            found = path.stat()
        except OSError as error:
            raise ValueError(f"{shown(path)}: a link that leads nowhere ({error.strerror})") from error
        yield path, found
        if stat.S_ISDIR(found.st_mode):
            yield from below(path, above | {(here.st_dev, here.st_ino)})


def stamp(source: Path) -> str:
    """Changes whenever `source`, or a file or folder below it, is added, removed, rewritten or replaced, even by one of
    the same name, size and time: the inode and the time of its last change tell, also of what a link leads to.
    """
    lines = [os.fsencode(f"{READER}")]
    for path, found in below(source) if source.is_dir() else [(source, source.stat())]:
        facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        lines.append(os.fsencode(path) + repr("" if stat.S_ISDIR(found.st_mode) else facts).encode())
    return hashlib.sha256(b"\n".join(lines)).hexdigest()


def _read(path: Path, name: str, fingerprint: str, in_memory: float) -> Dataset | None:
    """The cached data set; None if there is none of this fingerprint, or (with a warning) if the file is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as found:
            if str(found["fingerprint"]) != fingerprint:
                return None
        stored = archive.arrays(path, in_memory)
        arrays = {key: stored[key] for key in ARRAYS}
        class_names, notes = (tuple(map(str, stored[key])) for key in ("class_names", "notes"))
        return Dataset(name, **arrays, class_names=class_names, notes=notes)
    except Exception as error:  # a damaged header can make zipfile and numpy raise anything
        log.warning(f"cache {path} is damaged ({error}): rebuilding it")
        return None


def _write(path: Path, dataset: Dataset, fingerprint: str) -> None:
    """Best effort: an error is a warning, for without the cache every start decodes again."""
    arrays = {key: getattr(dataset, key) for key in ARRAYS}
    texts = {"class_names": dataset.class_names, "notes": dataset.notes, "fingerprint": fingerprint}
    arrays |= {key: np.array(text, str) for key, text in texts.items()}
    partial = path.with_name(f"{path.stem}-{socket.gethostname()}-{os.getpid()}.part")  # hosts may share the folder
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            archive.write(file, arrays)
        partial.replace(path)
    except OSError as error:
        log.warning(f"cannot cache {dataset.name} in {path.parent} ({error}): every start decodes it")
        with contextlib.suppress(OSError):
            partial.unlink()


def remember(name: str, dataset: Dataset) -> None:
    """Keeps, outside of every work directory, where the data of `npz:PATH` or `folder:PATH` lie on this machine."""
    kind, _, path = name.partition(":")
    place = _place(dataset.name, dataset.fingerprints["train"])
    with contextlib.suppress(OSError):  # then `evaluate` has to be told
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}-{socket.gethostname()}-{os.getpid()}.part")
        partial.write_bytes(os.fsencode(f"{kind}:{os.path.abspath(os.path.expanduser(path))}"))
        partial.replace(place)


def located(name: str, train_fingerprint: str) -> str:
    """`name` itself if its path exists, else the path where such data were last read here, if they are there still."""
    kind, _, path = name.partition(":")
    place = _place(f"{kind}:{Path(path).name}", train_fingerprint)
    if not Path(path).expanduser().exists() and place.is_file():
        found = os.fsdecode(place.read_bytes())
        return found if os.path.exists(found.partition(":")[2]) else name
    return name


def _place(name: str, train_fingerprint: str) -> Path:
    return root(Options()) / "places" / hashlib.sha256(os.fsencode(f"{name} {train_fingerprint}")).hexdigest()[:16]
