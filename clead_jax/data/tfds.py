"""TensorFlow Datasets without TensorFlow: any prepared image-classification set stored as array_record.

A prepared set is a folder DATA_DIR/NAME[/CONFIG]/VERSION with `dataset_info.json` inside. Reading one needs no TensorFlow;
preparing one does, except CIFAR (see `cifar`), and so does changing its format. For those, the errors give the command.
"""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax.data.cache import cached
from clead_jax.data.dataset import Dataset, Options
from clead_jax.data.images import MODES, decode_all
from clead_jax.data.splits import with_test_split
from clead_jax.registry import SOURCES

Split = tuple[np.ndarray, np.ndarray]


@SOURCES.register("tfds")
def tfds(argument: str, options: Options) -> Dataset:
    """`tfds:NAME[/CONFIG][:VERSION]`, the newest version if none is given. Its `validation` split serves where there is no `test`.

    Raises ValueError (one line): not prepared, not array_record, not a set of images with one label each.
    """
    folder = find(argument, options)
    if folder is None:
        raise ValueError(
            f"data set {argument!r} is not prepared in {data_dir(options)}; where TensorFlow is installed, prepare it with: "
            f"tfds build {argument} --data_dir={data_dir(options)} --file_format=array_record"
        )
    return cached(folder, argument, options, lambda: _decode(folder, argument, options.image_size))


def data_dir(options: Options) -> Path:
    """Where prepared data sets are: TFDS's own default unless the options say otherwise."""
    root = options.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(root).expanduser().resolve()


def find(name: str, options: Options) -> Path | None:
    """The prepared folder of NAME[/CONFIG][:VERSION], the newest version if none is given; None if there is none."""
    name, _, version = name.partition(":")
    found = (info.parent for info in (data_dir(options) / name).glob(f"{version or '*'}/dataset_info.json"))
    complete = (
        path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name)
    )  # one being written is called otherwise
    return max(complete, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def knows(name: str, options: Options) -> bool:
    """Whether `name` is prepared here, or the name of one of TFDS's own data sets."""
    if find(name, options):
        return True
    import tensorflow_datasets

    return re.split("[/:]", name)[0] in tensorflow_datasets.list_builders(with_community_datasets=False)


def _decode(folder: Path, name: str, image_size: int | None) -> Dataset:
    import tensorflow_datasets  # half a second that a cached start need not pay

    builder = tensorflow_datasets.builder_from_directory(folder)
    if "array_record" not in {file_format.value for file_format in builder.info.available_file_formats()}:
        raise ValueError(
            f"{folder} is stored as {builder.info.file_format.value}; where TensorFlow is installed, convert it with: "
            f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
        )
    image_key, label_key = _keys(builder.info)
    class_names = tuple(builder.info.features[label_key].names)
    read = lambda split: _read(builder, split, image_key, label_key, image_size)
    test = next((split for split in ("test", "validation") if split in builder.info.splits), None)
    if test is None:
        return with_test_split(name, *read("train"), class_names)
    return Dataset(name, *read("train"), *read(test), class_names)


def _keys(info: Any) -> tuple[str, str]:
    """The names of the image and of the label feature. Raises ValueError unless this is image classification."""
    from tensorflow_datasets.core.features import ClassLabel, Image

    keys = info.supervised_keys or ()
    kinds = [type(info.features[key]) if isinstance(key, str) else type(key) for key in keys]
    if kinds != [Image, ClassLabel] or info.features[keys[0]].shape[-1] not in MODES or "train" not in info.splits:
        raise ValueError(
            f"{info.full_name} has supervised keys {keys} of {kinds} and splits {list(info.splits)}; "
            "allowed: a grey or RGB Image with a ClassLabel, and a train split"
        )
    return keys


def _read(builder: Any, split: str, image_key: str, label_key: str, image_size: int | None) -> Split:
    """One split decoded: (images uint8 [N, H, W, C], labels int32 [N])."""
    from tensorflow_datasets import decode

    records = list(builder.as_data_source(split, decoders={image_key: decode.SkipDecoding()}))
    channels = builder.info.features[image_key].shape[-1]
    images = decode_all([record[image_key] for record in records], f"{builder.name} {split}", channels, image_size)
    return images, np.array([record[label_key] for record in records], np.int32)
