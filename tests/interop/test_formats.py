"""Every registered format: written, read again, equal to the model; folding; files that are none of ours."""

import datetime
import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import clead_jax
from clead_jax.core.registry import BACKBONES, EXPORTERS
from clead_jax.core.types import Classifier
from clead_jax.interop import folding, formats
from clead_jax.interop.formats import Exportable
from clead_jax.models import Network

NEEDS = {"onnx": ("onnx", "onnxruntime"), "safetensors": ("safetensors",)}
RNG = np.random.default_rng(0)
IMAGES = RNG.random((5, 8, 8, 3), np.float32)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def convolve(x, w, stride=1):
    return lax.conv_general_dilated(x, w, (stride, stride), [(1, 1)] * 2, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def norm(x, v):
    return (x - v["mean"]) * lax.rsqrt(v["var"] + 1e-5) * v["scale"] + v["bias"]


def forward(v, x):
    """Normalised pixels, two convolutions with BatchNorm and a third whose output is read twice, a dense layer."""
    x = jax.nn.relu(norm(convolve((x - 0.4) / 0.3, v["first"]), v["norm1"]))
    x = jax.nn.silu(norm(convolve(x, v["second"], 2), v["norm2"]))
    y = convolve(x, v["third"])
    y = jax.nn.relu(norm(y, v["norm3"])) + y
    return y.mean((1, 2)) @ v["dense"] + v["bias"]


def statistics(channels):
    values = {name: normal(channels) for name in ("mean", "var", "scale", "bias")}
    return values | {"var": 1 + values["var"] ** 2}


VARIABLES = {
    **{"first": normal(3, 3, 3, 4), "second": normal(3, 3, 4, 6) / 3, "third": normal(3, 3, 6, 6) / 3},
    **{"norm1": statistics(4), "norm2": statistics(6), "norm3": statistics(6)},
    **{"dense": normal(6, 3), "bias": normal(3)},
}
MODEL = Classifier(forward, VARIABLES, 3, (8, 8, 3))


def bound(model, fold=True):
    plain = lambda x: model.forward(model.variables, x)
    return folding.folded(plain) if fold else plain


def logits_of(model, images=IMAGES):
    return np.asarray(jax.jit(model.forward)(model.variables, images))


def through_file(name, model, folder, batch_size=None):
    for needed in NEEDS.get(name, ()):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    path = folder / f"model.{EXPORTERS[name].info['suffix']}"
    path.write_bytes(EXPORTERS[name].value(model))
    return EXPORTERS[name].info["load"](path, model)


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("name", EXPORTERS)
def test_a_file_gives_the_logits_of_the_model(tmp_path, name, batch_size):
    found = through_file(name, Exportable(bound(MODEL), MODEL, batch_size), tmp_path, batch_size)
    for size in [batch_size] if batch_size else [1, 5]:
        np.testing.assert_allclose(formats.logits(found, IMAGES, size), logits_of(MODEL), atol=1e-5)
    if found.classifier:
        slope = lambda model: jax.grad(lambda x: jax.jit(model.forward)(model.variables, x)[:, 0].sum())(IMAGES)
        np.testing.assert_allclose(slope(found.classifier), slope(MODEL), atol=1e-5)


@pytest.mark.parametrize("name", EXPORTERS)
def test_a_file_of_other_weights_is_another_model(tmp_path, name):
    other = Classifier(forward, VARIABLES | {"dense": VARIABLES["dense"][:, ::-1]}, 3, (8, 8, 3))
    found = through_file(name, Exportable(bound(other), other), tmp_path)
    assert np.abs(formats.logits(found, IMAGES, 5) - logits_of(MODEL)).max() > 0.01


def names_in(function):
    return [e.primitive.name for e in jax.make_jaxpr(function)(IMAGES).eqns]


def test_batch_norm_is_folded_where_the_convolution_is_read_once():
    plain, simpler = bound(MODEL, fold=False), bound(MODEL)
    image = jax.ShapeDtypeStruct(IMAGES.shape, np.float32)
    assert folding.convolutions(plain, image) == 2
    left = names_in(simpler)
    assert left.count("conv_general_dilated") == 3 and "rsqrt" not in left
    assert left.count("sub") == 2  # the pixels' mean, and the third BatchNorm's
    assert names_in(folding.folded(plain, batch_norm=False)).count("sub") == 4
    np.testing.assert_allclose(jax.jit(simpler)(IMAGES), logits_of(MODEL), atol=1e-5)


@pytest.mark.parametrize(
    "after", [lambda y: 2 - y, lambda y: 2 * y / 3, lambda y: 1 / (2 + y * y), lambda y: y * jnp.ones((1, 8, 1, 1)) / 2]
)
def test_folding_keeps_what_follows_a_convolution(after):
    function = lambda x: after(convolve(x, VARIABLES["first"])).sum((1, 2))
    np.testing.assert_allclose(jax.jit(folding.folded(function))(IMAGES), jax.jit(function)(IMAGES), rtol=1e-5)


def test_relu_keeps_its_gradient_at_zero():
    assert jax.grad(lambda x: folding.folded(jax.nn.relu)(x).sum())(jnp.zeros(3)).tolist() == [0, 0, 0]


def test_a_batch_size_that_cannot_be_symbolic_is_said():
    branching = Classifier(lambda v, x: x.sum((1, 2)) if len(x) > 2 else x.max((1, 2)), None, 3, (8, 8, 3))
    with pytest.raises(ValueError, match="batch_size is symbolic; write a number"):
        EXPORTERS["jax"].value(Exportable(bound(branching, fold=False), branching))
    assert EXPORTERS["jax"].value(Exportable(bound(branching, fold=False), branching, 2))


def test_a_file_of_jax_is_a_classifier_that_can_be_attacked(tmp_path):
    path = tmp_path / "model.jax"
    path.write_bytes(EXPORTERS["jax"].value(Exportable(bound(MODEL), MODEL, 2)))
    found = clead_jax.load_exported(path)
    assert (found.num_classes, found.image_shape) == (3, (8, 8, 3))
    np.testing.assert_allclose(logits_of(found), logits_of(MODEL), atol=1e-5)
    images, labels = np.tile(IMAGES, (4, 1, 1, 1)), np.tile(logits_of(MODEL).argmax(-1), 4)
    given = {"eps": 0.3, "attacks": ("fgsm",), "checks": False, "batch_size": 16}
    ours, theirs = (clead_jax.audit(each, images, labels, **given) for each in (found, MODEL))
    assert ours.accuracy == theirs.accuracy and ours.accuracy["fgsm"] < 1
    with_card = json.dumps({"files": {"jax": {"file": "model.jax", "digest": "0"}}})
    (tmp_path / "card.json").write_text(with_card)
    with pytest.raises(ValueError, match=r"damaged or was replaced: its digest is \w+, in card.json 0"):
        clead_jax.load_exported(path)


def exported(function, *shapes, **more):
    given = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return bytes(jax.export.export(jax.jit(function))(*given).serialize(**more))


def test_a_file_without_gradient_meets_square(tmp_path):
    (tmp_path / "plain.jax").write_bytes(exported(bound(MODEL), (16, 8, 8, 3)))
    found = clead_jax.load_exported(tmp_path / "plain.jax")
    given = {"attacks": ("pgd",), "checks": False, "batch_size": 16, "budget": "20passes"}
    result = clead_jax.audit(found, IMAGES, logits_of(MODEL).argmax(-1), **given)
    assert "square in place of pgd" in result.notes[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "cannot be read as a model of jax.export"),
        (bytes(1000), "cannot be read as a model of jax.export"),
        (b"\x08\x01onnx" * 50, "cannot be read as a model of jax.export"),
        (lambda: exported(bound(MODEL), (2, 8, 8, 3))[:3000], "cannot be read as a model of jax.export"),
        (lambda: exported(lambda x: x, (2, 8)), "wanted: float32"),
        (lambda: exported(lambda x, y: x.sum((1, 2)) + y, (2, 8, 8, 3), (3,)), "cannot be read as a model"),
        (None, "no such file"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, content, told):
    path = tmp_path / "model.jax"
    if content is not None:
        path.write_bytes(content() if callable(content) else content)
    with pytest.raises(ValueError, match=told) as refused:
        clead_jax.load_exported(path)
    assert "\n" not in str(refused.value) and "model.jax" in str(refused.value)


def test_how_long_jax_promises_to_read_a_file():
    assert formats.readable_until("0.10.2") == "2026-12-17"
    assert formats.readable_until("0.11.2") == "2027-03-17"
    assert formats.readable_until("99.0") is None
    assert all(isinstance(day, datetime.date) for day in formats.RELEASED.values())


def random_variables(network, shape):
    """Variables of a network without its initialisers, which take long to compile."""
    images = jax.ShapeDtypeStruct((1, *shape), np.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, False), images)

    def drawn(at, leaf):
        fan = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 1
        values = normal(*leaf.shape) / np.sqrt(fan)
        return {"var": 1 + values**2, "scale": 1 + values / 4}.get(at[-1].key, values)

    return jax.tree_util.tree_map_with_path(drawn, shapes)


@pytest.mark.slow
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "wide_resnet28_10", "efficientnet_b0"])
def test_every_backbone_in_every_format(tmp_path, backbone, stem):
    network = Network(backbone, 10, width=8, stem=stem, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.2))
    variables = random_variables(network, (32, 32, 3))
    model = Classifier(lambda v, x: network.apply(v, x, False, method="logits"), variables, 10, (32, 32, 3))
    images = RNG.random((3, 32, 32, 3), np.float32)
    expected = logits_of(model, images)
    size = max(1, np.abs(expected).max())
    assert folding.convolutions(bound(model, fold=False), jax.ShapeDtypeStruct(images.shape, np.float32)) > 10
    for name in EXPORTERS:
        found = through_file(name, Exportable(bound(model), model), tmp_path)
        assert np.abs(formats.logits(found, images, 3) - expected).max() < 1e-4 * size, name


def test_the_slow_test_names_every_kind_of_backbone():
    assert {"resnet18", "resnet50", "wide_resnet28_10", "efficientnet_b0"} <= {*BACKBONES}
