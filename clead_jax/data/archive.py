"""Arrays of .npz files that are larger than memory: written, decoded into, and memory-mapped, block by block.

An .npz is a zip archive of .npy files. What `numpy.savez` writes is not compressed, so that the bytes of an array lie
in the file as they would in memory, behind two headers; what `numpy.savez_compressed` writes can only be read whole.
"""

import math
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from clead_jax.core.rows import Rows, blocks

LOCAL_HEADER = struct.Struct("<26x2H")  # of a file in a zip archive; it ends with the lengths of what follows it


def arrays(path: Path, in_memory: float) -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name. Those of bytes that take more than `in_memory` are memory-mapped, without a
    look at their checksums, where they are not compressed; all others are read. Raises what `numpy.load` raises.
    """
    with np.load(path, allow_pickle=False) as stored, zipfile.ZipFile(path) as archive:
        large = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.file_size > in_memory and info.compress_type == zipfile.ZIP_STORED
        }
        return {key: _mapped(path, large[key], stored) if key in large else stored[key] for key in stored.files}


def _mapped(path: Path, info: zipfile.ZipInfo, stored: np.lib.npyio.NpzFile) -> np.ndarray:
    """One of them, if its items are bytes; larger ones would not be aligned."""
    name = info.filename.removesuffix(".npy")
    with path.open("rb") as file:
        file.seek(info.header_offset)
        lengths = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        file.seek(info.header_offset + LOCAL_HEADER.size + sum(lengths))
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            return stored[name]
        shape, fortran, dtype = read[version](file)
        if fortran or dtype.hasobject or dtype.itemsize > 1 or not math.prod(shape):
            return stored[name]
        return np.memmap(path, dtype, "r", file.tell(), shape)


def write(file: IO[bytes], named: Mapping[str, np.ndarray | Rows]) -> None:
    """As `numpy.savez(file, **named)`, but rows on disk are never in memory all at once."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for key, array in named.items():
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                if not isinstance(array, Rows):
                    np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
                    continue
                about = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False}
                np.lib.format.write_array_header_1_0(member, about | {"shape": array.shape})
                for block in blocks(array):
                    member.write(block.tobytes())


def space(folder: Path, in_memory: float) -> Callable[[tuple[int, ...]], np.ndarray]:
    """A function that makes an uint8 array of a given shape: above `in_memory` bytes in a file that is gone with it.

    The file lies in `folder`. Raises OSError where that cannot be written, or is full.
    """

    def make(shape: tuple[int, ...]) -> np.ndarray:
        if math.prod(shape) <= in_memory:
            return np.empty(shape, np.uint8)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # the mapping keeps what the closed file has held
            os.posix_fallocate(file.fileno(), 0, math.prod(shape))  # a full disk is an error now, a crash later
            return np.memmap(file, np.uint8, "r+", 0, shape)

    return make
