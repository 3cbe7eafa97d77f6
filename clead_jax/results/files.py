"""The files of an evaluation: results.json beside a few .npz, all replaced in one rename so that none is ever half."""

import contextlib
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax.core import stopping
from clead_jax.results import forms, lock
from clead_jax.results.forms import Arrays

AGAIN = "delete it and evaluate again"
SURE, RATIO = 2**30, 100  # bytes that an archive may unpack to in any case; beyond, so many times its size


def load_json(path: Path, form: Any = None, remedy: str = AGAIN) -> dict[str, Any]:
    """A JSON object, {} where there is no file. Raises ValueError naming a file, and the field, that is not of `form`
    (see `forms`), with what to do.
    """
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        forms.check(found, form if form and found else {})
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}); {remedy}") from None
    return found


def save_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object; makes the directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    half.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(half, path)


def load_arrays(path: Path, form: dict[str, tuple[str, int]] | None = None) -> Arrays:
    """Arrays by name, {} where there is no file. Raises ValueError naming a file that holds none, or not of `form`.

    Sizes are compared before memory is taken, and no pickle is opened.
    """
    if not path.exists():
        return {}
    try:
        with zipfile.ZipFile(path) as stored:
            size, most = sum(member.file_size for member in stored.infolist()), RATIO * path.stat().st_size
            if size > max(SURE, most):
                raise ValueError(f"it would unpack to {size:,} bytes")
            arrays = {name.removesuffix(".npy"): _array(stored.read(name), name) for name in stored.namelist()}
        forms.check_arrays(arrays, form) if form else None
        return arrays
    except OSError:
        raise
    except Exception as error:  # a broken archive raises almost anything
        raise ValueError(f"{path} is damaged ({' '.join(str(error).split())[:300]}); {AGAIN}") from None


def _array(content: bytes, name: str) -> np.ndarray:
    """The array of a .npy file."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    declared, held = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if dtype.kind not in "biufU" or declared != held:
        raise ValueError(f"{name} declares {dtype} of shape {shape}, and holds {held:,} bytes")
    return np.ndarray(shape, dtype, content, file.tell(), order="F" if fortran else "C").copy()


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
