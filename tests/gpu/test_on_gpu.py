"""What a GPU computes beside what the CPU does: attacks, a float32 judge of gradients in bfloat16, a resume."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import speck
from killing import killed_after_a_save

from clead_jax import main
from clead_jax.attacks.parse import attack_at
from clead_jax.core import sharding
from clead_jax.core.types import Classifier, Examples
from clead_jax.evaluation.classifier import compiled
from clead_jax.evaluation.runner import run_attacks
from clead_jax.experiment import builders
from clead_jax.training import checkpoint

pytestmark = pytest.mark.gpu

IMAGES = np.random.RandomState(0).random((64, 16, 16, 3)).astype(np.float32)
EPS, CLASSES = 0.02, 10
TEXTS = (
    "fgsm",
    "pgd(steps=5,random_start=false)",
    "apgd_ce(steps=5)",
    "fab_t(steps=3,targets=3)",
    "square(queries=20)",
)


def weights():
    """Two convolutions and a linear layer, random."""
    random = np.random.RandomState(1)
    draw = lambda *shape: random.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape).astype(np.float32)
    return {"first": draw(3, 3, 3, 16), "second": draw(3, 3, 16, 32), "last": draw(32, CLASSES)}


def forward(w, x, dtype=jnp.float32):
    """Logits [B, K] of x [B, H, W, C]; products are float32's own, or bfloat16's."""
    precision = jax.lax.Precision.HIGHEST if dtype == jnp.float32 else None
    x = ((x - 0.5) / 0.25).astype(dtype)
    for name in ("first", "second"):
        kernel = w[name].astype(dtype)
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=dims, precision=precision)
        x = jax.nn.relu(x)
    return jnp.matmul(x.mean((1, 2)), w["last"].astype(dtype), precision=precision).astype(jnp.float32)


def on(device, **more):
    """The net, compiled for one device."""
    with jax.default_device(device):
        model = Classifier(forward, jax.device_put(weights(), device), CLASSES, IMAGES.shape[1:], **more)
        return compiled(model, sharding.data_mesh([device]), len(IMAGES))


def attacked(model, text, labels, device):
    """What an attack finds, images of all examples included."""
    examples, named = Examples(IMAGES, labels, np.arange(len(IMAGES), dtype=np.int32)), attack_at(text, "linf", EPS)
    with jax.default_device(device):
        return run_attacks(
            model, examples, [named], key=jax.random.key(0), num_classes=CLASSES, keep=len(IMAGES), early_stop=False
        )


def test_the_net_is_the_same(cpu, gpu):
    logits = [on(device).logits(IMAGES) for device in (cpu, gpu)]
    np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("text", TEXTS)
def test_attacks_find_what_they_find_on_a_cpu(cpu, gpu, text):
    """Rounding turns the sign of a gradient near 0, and a search by chance goes on from there: hence a few per cent."""
    labels = on(cpu).predict(IMAGES).astype(np.int32)
    ours, theirs = (attacked(on(device), text, labels, device) for device in (gpu, cpu))
    assert (ours.correct == theirs.correct).mean() >= 0.95
    assert 0 < theirs.correct.mean() < 1, "an attack that breaks nothing, or all, would compare nothing"
    assert np.abs(ours.images - IMAGES).max() <= EPS + 1e-6
    near = np.abs(ours.images - theirs.images).max((1, 2, 3)) < 1e-3
    assert text.startswith(("square", "fab")) or near.mean() >= 0.8


def test_a_success_in_bfloat16_counts_only_in_float32(cpu, gpu):
    labels = on(cpu).predict(IMAGES).astype(np.int32)
    model = on(gpu, attack_forward=functools.partial(forward, dtype=jnp.bfloat16))
    found = attacked(model, "pgd(steps=10)", labels, gpu)
    assert 0 < found.correct.mean() < 1
    logits = np.asarray(on(cpu).logits(found.images))
    best = np.sort(logits, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-3  # nearer to the boundary the two devices may differ
    np.testing.assert_array_equal((logits.argmax(1) == labels)[clear], found.correct[clear])
    assert clear.mean() > 0.9


def test_a_run_that_was_ended_goes_on(gpu, tmp_path, monkeypatch):
    """Sums of a GPU are not in a fixed order, so that two runs agree but for rounding."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    ends = []
    for name in ("straight", "ended"):
        command = speck.command(tmp_path / name, stages="baseline")
        if name == "ended":
            with killed_after_a_save(monkeypatch):
                main.main(command)
        main.main(command)
        ends.append(checkpoint.restore_model(builders.checkpoint_dir(str(tmp_path / name), "baseline"), "latest")[0])
    chex.assert_trees_all_close(*ends, rtol=1e-2, atol=1e-3)
