"""Accuracy under the 15 common corruptions of Hendrycks & Dietterich (2019, arXiv 1903.12261), at their 5 severities.

The corruptions are those of the package imagecorruptions-imaug, with the strengths of ImageNet-C at any size of image;
CIFAR-10-C, which is a data set of its own, is milder. Noise belongs to the image: the same in any batch.
"""

import importlib
import inspect
import zlib
from types import ModuleType
from typing import Any

import numpy as np

from clead_jax.core.batches import pixels
from clead_jax.core.types import Examples, Key
from clead_jax.evaluation.classifier import Compiled

NAMES = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
SEVERITIES = (1, 2, 3, 4, 5)
LEAST = 32  # pixels a side
EXTRA = 'the corruptions need the package imagecorruptions-imaug: pip install -e ".[corruptions]"'


def check(shape: tuple[int, ...]) -> None:
    """Raises ValueError, one line, if images [H, W, C] cannot be corrupted, or the package is not there."""
    if min(shape[:2]) < LEAST or shape[2] not in (1, 3):
        size = "x".join(map(str, shape))
        raise ValueError(f"no corruptions of images {size}: they need {LEAST} pixels a side and 1 or 3 channels")
    _package()


def corrupted(examples: Examples, name: str, severity: int, seed: int) -> np.ndarray:
    """The images, uint8 [N, H, W, C], under the corruption `name` at a severity of 1 to 5.

    Noise is drawn by the seed, the corruption and each example's index. Numpy's global generator, which the package
    draws from, is left as it was.
    """
    before = np.random.get_state()
    found = np.empty(examples.images.shape, np.uint8)
    images = np.round(255 * pixels(examples.images)).astype(np.uint8)
    try:
        for row, (image, index) in enumerate(zip(images, examples.index, strict=True)):
            found[row] = _one(image, name, severity, zlib.crc32(f"{seed} {name} {index}".encode()))
    finally:
        np.random.set_state(before)
    return found


def accuracies(model: Compiled, examples: Examples, seed: int, key: Key) -> dict[str, Any]:
    """{"accuracy": corruption -> shares [5] in [0, 1] by severity, "mean" over all, "worst" of the corruptions' means,
    "num_examples"}. `key` is of the noise of a randomized model.
    """
    shares = {
        name: [
            float((model.predict(corrupted(examples, name, s, seed), key) == examples.labels).mean())
            for s in SEVERITIES
        ]
        for name in NAMES
    }
    means = [float(np.mean(each)) for each in shares.values()]
    return {
        "accuracy": shares,
        "mean": float(np.mean(means)),
        "worst": min(means),
        "num_examples": len(examples.labels),
    }


def _one(image: np.ndarray, name: str, severity: int, seed: int) -> np.ndarray:
    """One image, uint8 [H, W, C]. A grey one comes back from the package in three equal or equally noisy channels."""
    package, own = _package(), {}
    if "seed" in inspect.signature(package.corruption_dict[name]).parameters:
        own["seed"] = seed
    np.random.seed(seed)
    return package.corrupt(image, severity, name, **own)[..., : image.shape[2]]


def _package() -> ModuleType:
    try:
        return importlib.import_module("imagecorruptions")
    except ImportError as error:
        raise ValueError(f"{EXTRA} ({error})") from None
