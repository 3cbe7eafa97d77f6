"""CIFAR-10 and CIFAR-100, downloaded and prepared for TFDS without TensorFlow.

TFDS's own builders need TensorFlow to open the archive and to encode the images. `prepare` does these two with
`tarfile` and Pillow and keeps the rest (name, version, features, example ids, checksum). It writes the folder that TFDS
writes, in array_record format.
"""

import functools
import hashlib
import http.client
import os
import sys
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from clead_jax.core.registry import SOURCES
from clead_jax.data import tfds
from clead_jax.data.dataset import Dataset, Options

PIXELS = 3 * 32 * 32


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


def prepare(name: str, data_dir: Path, url: str | None = None) -> None:
    """Downloads the official archive and writes DATA_DIR/NAME/VERSION, with progress bars on a terminal.

    `url`: another address of the archive, without a checksum; the official one is checked against TFDS's. An archive
    already in DATA_DIR/downloads is used instead. Raises ValueError (one line) if none can be fetched or read.
    """
    import tensorflow_datasets

    official = tensorflow_datasets.core.registered.imported_builder_cls(name)
    [(official_url, known)] = official.url_infos.items()
    archive = data_dir / "downloads" / known.filename
    if not archive.exists():
        download(url or official_url, archive, None if url else known.checksum)
    tensorflow_datasets.display_progress_bar(sys.stderr.isatty())
    _without_tensorflow(official, archive)(data_dir=data_dir, file_format="array_record").download_and_prepare()


def download(url: str, file: Path, sha256: str | None) -> None:
    """Fetches `url` to `file`, atomically; ValueError if that fails or `sha256`, if given, does not agree."""
    digest = hashlib.sha256()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            partial = Path(folder) / file.name
            with urllib.request.urlopen(url, timeout=60) as response, partial.open("wb") as out:
                for chunk in _chunks(response, file.name):
                    out.write(chunk)
                    digest.update(chunk)
            if sha256 not in (None, digest.hexdigest()):
                raise OSError(f"its sha256 is {digest.hexdigest()}, not {sha256}")
            os.replace(partial, file)
    except (OSError, http.client.HTTPException) as error:
        raise ValueError(f"cannot download {url} ({error}); try again, or put the archive at {file}") from error


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
                    self.info.features[key].names = names.decode().split()
                return {
                    "train": _examples("train", b"".join(read(layout.train_files)), layout.label_keys),
                    "test": _examples("test", b"".join(read(layout.test_files)), layout.label_keys),
                }

    Builder.__module__ = official.__module__  # there TFDS looks for the data set's description
    return Builder


def _extract(archive: Path, folder: str, files: list[str]) -> list[bytes]:
    """The contents of `files` in the archive's `folder`. ValueError where the archive is damaged or another one."""
    try:
        with tarfile.open(archive, "r:gz") as tar:
            return [tar.extractfile(folder + file).read() for file in files]  # type: ignore[union-attr]
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error) as error:
        raise ValueError(f"{archive}: not the archive it should be ({error}); delete it and start again") from error


def _examples(split: str, data: bytes, label_keys: list[str]) -> Iterator[tuple[int, dict]]:
    """Records of one byte per label and 3072 of planar pixels -> TFDS examples with Pillow images."""
    count = len(label_keys)
    for i, record in enumerate(np.frombuffer(data, np.uint8).reshape(-1, count + PIXELS)):
        labels = dict(zip(label_keys, record[:count].tolist(), strict=True))
        image = Image.fromarray(record[count:].reshape(3, 32, 32).transpose(1, 2, 0))
        yield i, {"id": f"{split}_{i:05d}", "image": image, **labels}
