"""Which batch size is taken, given how long each takes."""

import jax
import numpy as np
import pytest

from clead_jax.core.types import Classifier, Examples
from clead_jax.evaluation.batch_size import fastest, fastest_batch
from clead_jax.evaluation.classifier import compiled


def test_grows_while_that_is_faster():
    assert fastest(lambda size: 1.0 + 0.001 * size, least=16, most=4096) == 2048
    assert fastest(lambda size: 0.1 * size, least=16, most=4096) == 16
    assert fastest(lambda size: max(1.0, size / 64), least=16, most=4096) == 64
    assert fastest(lambda size: 1.0, least=24, most=100) == 96


def test_what_does_not_fit_is_not_taken():
    def seconds(size):
        if size > 100:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")
        return 1.0

    assert fastest(seconds, least=16, most=4096) == 64


def test_other_errors_are_not_hidden():
    def seconds(size):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        fastest(seconds, least=16, most=64)


def test_tries_the_model_itself_on_images_again_and_again():
    sizes = []

    def forward(v, x):
        sizes.append(len(x))
        return x.reshape(len(x), -1)[:, :3]

    examples = Examples(np.zeros((20, 4, 4, 1), np.float32), np.zeros(20, np.int32), np.arange(20))
    assert fastest_batch(compiled(Classifier(forward)), examples) in (16, 32)
    assert set(sizes) == {16, 32}
