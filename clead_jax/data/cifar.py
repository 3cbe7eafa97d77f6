"""CIFAR-10 and CIFAR-100, downloaded and prepared for TFDS without TensorFlow.

TFDS's own builders need TensorFlow to open the archive and to encode the images. `prepare` does these two with
`tarfile` and Pillow and keeps the rest (name, version, features, example ids, checksum). It writes the folder that TFDS
writes, in array_record format.
"""

import contextlib
import fcntl
import functools
import hashlib
import http.client
import json
import os
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from clead_jax.core.registry import SOURCES
from clead_jax.data import tfds
from clead_jax.data.dataset import Dataset, Options

PIXELS = 3 * 32 * 32
NEW = 60  # seconds in which a folder may not be locked yet
AGAIN = "delete it and start again"


def cifar(name: str, argument: str, options: Options) -> Dataset:
    """`cifar10` or `cifar100`, prepared first where missing. ValueError (one line) where that fails or is forbidden."""
    if argument:
        raise ValueError(f"data set {name!r} takes no argument, not {argument!r}")
    if tfds.find(name, options) is None:
        if not options.download:
            raise ValueError(f"data set {name!r} is not in {tfds.data_dir(options)}, and download is off")
        prepare(name, tfds.data_dir(options))
    return tfds.tfds(name, options)


for _name in ("cifar10", "cifar100"):
    SOURCES.register(_name)(functools.partial(cifar, _name))


def prepare(name: str, data_dir: Path, url: str | None = None, sha256: str | None = None) -> None:
    """Downloads the official archive and writes DATA_DIR/NAME/VERSION, with progress bars on a terminal.

    An archive already in DATA_DIR/downloads is used instead. Either must have the checksum that TFDS knows, or with
    another address `url` the given `sha256`, if there is one; `archive.json` beside the data records it. Several
    processes may prepare one data set at once. Raises ValueError (one line) if no archive can be fetched or read.
    """
    import tensorflow_datasets

    official = tensorflow_datasets.core.registered.imported_builder_cls(name)
    [(official_url, known)] = official.url_infos.items()
    archive, sha256 = data_dir / "downloads" / known.filename, sha256 if url else known.checksum
    if not archive.exists():
        download(url or official_url, archive, sha256)
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 not in (None, found):
        raise ValueError(f"{archive}: not the archive it should be (its sha256 is {found}, not {sha256}); {AGAIN}")
    tensorflow_datasets.display_progress_bar(sys.stderr.isatty())
    with _part(data_dir) as part:
        builder = _without_tensorflow(official, archive)(data_dir=part, file_format="array_record")
        builder.download_and_prepare()
        made = Path(builder.data_dir)
        (made / "archive.json").write_text(json.dumps({"file": known.filename, "sha256": found}), encoding="utf-8")
        place = data_dir / made.relative_to(part)
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            made.rename(place)
        except OSError:
            if not (place / "archive.json").exists():  # another process has been faster
                raise


def download(url: str, file: Path, sha256: str | None) -> None:
    """Fetches `url` to `file`, atomically; ValueError if that fails or `sha256`, if given, does not agree."""
    digest = hashlib.sha256()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _part(file.parent) as folder:
            partial = folder / file.name
            opener = urllib.request.build_opener()  # reads the proxies of the environment now
            with opener.open(url, timeout=60) as response, partial.open("wb") as out:
                for chunk in _chunks(response, file.name):
                    out.write(chunk)
                    digest.update(chunk)
            if sha256 not in (None, digest.hexdigest()):
                raise OSError(f"its sha256 is {digest.hexdigest()}, not {sha256}")
            os.replace(partial, file)
    except (OSError, http.client.HTTPException) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"cannot download {url} ({said}); try again, or put the archive at {file}") from error


@contextlib.contextmanager
def _part(folder: Path) -> Iterator[Path]:
    """A folder inside `folder` for what is not whole yet. Those that killed processes have left there are removed."""
    for left in folder.glob(".preparing-*"):
        with contextlib.suppress(OSError):  # it is in use, or another process removes it
            if time.time() - left.stat().st_mtime > NEW:
                with _locked(left):
                    shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".preparing-") as part, contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks: then nothing there is ever removed
            stack.enter_context(_locked(Path(part)))
        yield Path(part)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a lock that the system releases when this process ends in whatever way. OSError if another holds it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _chunks(response: http.client.HTTPResponse, title: str) -> Iterator[bytes]:
    """The body of `response`, with a progress bar. Raises OSError if it ends too early."""
    total = response.length
    with tqdm(desc=f"downloading {title}", total=total, unit="B", unit_scale=True, disable=None) as bar:
        while chunk := response.read(1 << 20):
            yield chunk
            bar.update(len(chunk))
    if response.length:
        raise OSError(f"{response.length} of {total} bytes are missing")


def _without_tensorflow(official: Any, archive: Path) -> Any:
    """A builder class like `official`, except for how it reads `archive`."""
    import tensorflow_datasets

    with tensorflow_datasets.core.registered.skip_registration():

        class Builder(official):
            name = official.name

            def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
                del dl_manager
                layout = self._cifar_info
                read = functools.partial(_extract, archive, layout.prefix)
                for key, names in zip(layout.label_keys, read(layout.label_files), strict=True):
                    try:
                        self.info.features[key].names = names.decode().split()
                    except ValueError as error:
                        raise ValueError(f"{archive}: not names of its classes ({error}); {AGAIN}") from error
                classes = {key: self.info.features[key].num_classes for key in layout.label_keys}
                splits = {"train": layout.train_files, "test": layout.test_files}
                return {
                    split: _examples(split, _records(archive, read(files), list(classes.values())), classes)
                    for split, files in splits.items()
                }

    Builder.__module__ = official.__module__  # there TFDS looks for the data set's description
    return Builder


def _extract(archive: Path, folder: str, files: list[str]) -> list[bytes]:
    """The contents of `files` in the archive's `folder`. ValueError where the archive is damaged or another one."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            return [tar.extractfile(folder + file).read() for file in files]  # type: ignore[union-attr]
    except Exception as error:  # a damaged archive can make tarfile raise anything; a member may be a folder
        said = "a file in it is a folder" if isinstance(error, AttributeError) else " ".join(str(error).split())
        raise ValueError(f"{archive}: not the archive it should be ({said}); {AGAIN}") from error


def _records(archive: Path, files: list[bytes], classes: list[int]) -> np.ndarray:
    """uint8 [N, labels + 3072] of the files of a split. ValueError where they are no such records."""
    size = len(classes) + PIXELS
    if any(len(data) % size for data in files) or not any(files):
        sizes = ", ".join(str(len(data)) for data in files)
        raise ValueError(f"{archive}: files of {sizes} bytes are no whole images of {size}; {AGAIN}")
    records = np.frombuffer(b"".join(files), np.uint8).reshape(-1, size)
    if (outside := records[:, : len(classes)] >= np.array(classes)).any():
        label = records[:, : len(classes)][outside][0]
        raise ValueError(f"{archive}: label {label} is outside the {classes[-1]} classes; {AGAIN}")
    return records


def _examples(split: str, records: np.ndarray, label_keys: Collection[str]) -> Iterator[tuple[int, dict]]:
    """Records of one byte per label and 3072 of planar pixels -> TFDS examples with Pillow images."""
    count = len(label_keys)
    for i, record in enumerate(records):
        labels = dict(zip(label_keys, record[:count].tolist(), strict=True))
        image = Image.fromarray(record[count:].reshape(3, 32, 32).transpose(1, 2, 0))
        yield i, {"id": f"{split}_{i:05d}", "image": image, **labels}
