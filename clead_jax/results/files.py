"""The files of an evaluation: results.json beside a few .npz, all replaced in one rename so that none is ever half."""

import contextlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax.core import stopping
from clead_jax.results import lock

Arrays = dict[str, np.ndarray]


def load_json(path: Path) -> dict[str, Any]:
    """A JSON object, {} where there is no file. Raises ValueError naming a file that is no JSON."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and evaluate again") from None


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(half, path)


def load_arrays(path: Path) -> Arrays:
    """Arrays by name, {} where there is no file. Raises ValueError naming a file that holds none."""
    if not path.exists():
        return {}
    try:
        with np.load(path) as stored:
            return dict(stored)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and evaluate again") from None


def save_arrays(path: Path, arrays: Arrays, compress: bool = True) -> None:
    """Writes arrays by name; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    with open(half, "wb") as f:
        (np.savez_compressed if compress else np.savez)(f, **arrays)  # type: ignore[arg-type]
    os.replace(half, path)


@contextlib.contextmanager
def replaced_together(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` at the end of the block, pictures first; none after an error.

    Another process that does the same is waited for. Raises OSError if it cannot write.
    """
    with lock.held(folder, wait=True):
        part = folder / ".part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            with stopping.deferred():
                for file in sorted(part.iterdir(), key=lambda file: file.suffix != ".png"):
                    os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(part, ignore_errors=True)
