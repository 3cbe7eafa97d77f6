"""Every data set by its name: `load("digits")`, `load("cifar10")`, `load("npz:mine.npz")`, `load("folder:pictures")`.

A source is a function `(argument, options) -> Dataset`, registered under the word before the colon; the argument is
what follows. To add one, decorate it with `@SOURCES.register("word")`; `load` checks what it returns.
"""

from clead_jax.core.progress import log
from clead_jax.core.registry import SOURCES
from clead_jax.data import cifar, digits, files, tfds  # noqa: F401 (importing a source registers it)
from clead_jax.data.dataset import Dataset, Options, check


def load(
    name: str,
    data_dir: str | None = None,
    cache_dir: str | None = None,
    download: bool = True,
    image_size: int | None = None,
    whole: bool = False,
    in_memory: float = float("inf"),
) -> Dataset:
    """The data set `name`, decoded. Raises ValueError (one line) naming what is wrong with it.

    A name that is no source of ours is looked up in TensorFlow Datasets: `svhn_cropped`, `mnist_corrupted/fog:1.0.0`.
    `data_dir`: where TFDS sets are prepared (default $TFDS_DATA_DIR or ~/tensorflow_datasets). `cache_dir`: where
    decoded arrays are kept (default $CLEAD_JAX_CACHE or ~/.cache/clead_jax). `download`: whether a missing CIFAR may be
    fetched. `image_size`: the square that encoded pictures are resized to; without it all must have one size already.
    `whole`: from a user's own images without a test split none are held out, and the test split is a copy of them.
    `in_memory`: images of more bytes stay on disk, memory-mapped, where they are stored uncompressed: in the cache of
    decoded arrays, or in `npz:FILE` as `numpy.savez` writes it.
    """
    options = Options(data_dir, cache_dir, download, image_size, whole, in_memory)
    source, _, argument = name.partition(":")
    if source not in SOURCES and tfds.knows(name, options):
        source, argument = "tfds", name
    dataset = SOURCES[source].value(argument, options)
    check(dataset)
    log.info(f"data: {dataset}")
    return dataset
