"""TensorFlow Datasets without TensorFlow: any prepared image-classification set stored as array_record.

A prepared set is a folder DATA_DIR/NAME[/CONFIG]/VERSION with a `dataset_info.json`. Reading needs no TensorFlow;
preparing (except CIFAR, see `cifar`) and converting do: the error gives the command.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clead_jax.core.registry import SOURCES
from clead_jax.data.cache import cached, space
from clead_jax.data.dataset import Dataset, Options, to_labels
from clead_jax.data.decode import MODES, decode_all
from clead_jax.data.splits import with_test_split

INSTALL = (
    "in an environment of its own: "
    "pip install tensorflow-cpu tensorflow-datasets array-record importlib_resources mlcroissant"
)


@SOURCES.register("tfds")
def tfds(argument: str, options: Options) -> Dataset:
    """`tfds:NAME[/CONFIG][:VERSION]`. Without a `test` split `validation` is used, else a share of `train`.

    Raises ValueError (one line): not prepared, not stored as array_record, not images with one label each.
    """
    folder = find(argument, options)
    if folder is None:
        root = data_dir(options)
        command = f"tfds build {argument} --data_dir={root} --file_format=array_record"
        raise ValueError(f"data set {argument!r} is not prepared in {root}; prepare it {INSTALL} && {command}")
    return cached(folder, argument, options, lambda: _decode(folder, argument, options))


def data_dir(options: Options) -> Path:
    """The folder of prepared data sets: that of the options, else TFDS's default."""
    root = options.data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(root).expanduser().resolve()


def find(name: str, options: Options) -> Path | None:
    """The prepared folder of NAME[/CONFIG][:VERSION], the newest version if none is given; None if there is none."""
    name, _, version = name.partition(":")
    found = (info.parent for info in (data_dir(options) / name).glob(f"{version or '*'}/dataset_info.json"))
    finished = (path for path in found if re.fullmatch(r"\d+\.\d+\.\d+", path.name))  # others are incomplete
    return max(finished, key=lambda path: [int(part) for part in path.name.split(".")], default=None)


def knows(name: str, options: Options) -> bool:
    """Whether `name` is prepared here, or is one of TFDS's own data sets."""
    if find(name, options):
        return True
    import tensorflow_datasets

    return re.split("[/:]", name)[0] in tensorflow_datasets.list_builders(with_community_datasets=False)


def _decode(folder: Path, name: str, options: Options) -> Dataset:
    import tensorflow_datasets  # takes half a second, not needed with a cache

    builder = tensorflow_datasets.builder_from_directory(folder)
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" not in formats:
        command = f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
        raise ValueError(f"{folder} is stored as {', '.join(formats)}; convert it {INSTALL} apache-beam && {command}")
    keys = _keys(builder.info)
    class_names = tuple(builder.info.features[keys[1]].names)
    train = _read(builder, "train", keys, options)
    test = next((split for split in ("test", "validation") if split in builder.info.splits), None)
    if test is None:
        return with_test_split(name, *train, class_names)
    unread = [split for split in builder.info.splits if split not in ("train", test)]
    notes = (f"splits train and {test}" + (f"; not read: {', '.join(unread)}" if unread else ""),)
    return Dataset(name, *train, *_read(builder, test, keys, options), class_names, notes)


def _keys(info: Any) -> tuple[str, str]:
    """The names of the image and of the label feature. Raises ValueError unless this is image classification."""
    from tensorflow_datasets.core.features import ClassLabel, Image

    keys: Any = info.supervised_keys or ()
    features = dict(info.features.items())
    kinds = [type(features[key]) for key in keys if isinstance(key, str)]
    if kinds != [Image, ClassLabel] or features[keys[0]].shape[-1] not in MODES or "train" not in info.splits:
        found = f"supervised keys {keys}, features {list(features)}, splits {list(info.splits)}"
        allowed = "a grey or RGB Image with a ClassLabel, and a train split"
        raise ValueError(f"{info.full_name} has {found}; allowed: {allowed}")
    return keys


def _read(builder: Any, split: str, keys: tuple[str, str], options: Options) -> tuple[np.ndarray, np.ndarray]:
    """One split: images uint8 [N, H, W, C], labels int32 [N]."""
    from tensorflow_datasets import decode

    image_key, label_key = keys
    source = builder.as_data_source(split, decoders={image_key: decode.SkipDecoding()})
    channels, labels, title = builder.info.features[image_key].shape[-1], [], f"{builder.name} {split}"

    def encoded() -> Iterator[bytes]:
        for record in source:
            labels.append(record[label_key])
            yield record[image_key]

    images = decode_all(encoded(), len(source), title, channels, options.image_size, space(options))
    return images, to_labels(np.array(labels), f"{title}: labels")
