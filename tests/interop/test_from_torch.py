"""Torch modules as classifiers: the same logits and input gradients, and one line for what cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clead_jax
from clead_jax.interop import ATEN

torch = pytest.importorskip("torch", reason="PyTorch is not installed; pip install '.[torch]'")
import torch_nets  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

SIDE = 8


def torch_answer(module, images):
    """Logits, and the input gradient of their sum weighted with 1, 2, 3, ..., in NHWC."""
    x = torch.tensor(images.transpose(0, 3, 1, 2)).requires_grad_()
    logits = module(x)
    gradient = torch.autograd.grad(logits, x, torch.arange(1.0, logits.shape[1] + 1).to(x).expand_as(logits))[0]
    return logits.detach().numpy(), gradient.numpy().transpose(0, 2, 3, 1)


def difference(module, image_shape, dtype=np.float32):
    """Largest difference of logits, and relative one of gradients, on other images than those of from_torch's check."""
    classifier = clead_jax.from_torch(module, image_shape)
    images = np.random.default_rng(7).random((2, *image_shape)).astype(dtype)
    logits, gradient = torch_answer(module, images)
    weights = jnp.broadcast_to(jnp.arange(1.0, logits.shape[1] + 1, dtype=dtype), logits.shape)
    value_and_gradient = jax.jit(lambda x: (lambda z, pull: (z, pull(weights)[0]))(*jax.vjp(classifier, x)))
    found, found_gradient = value_and_gradient(images)
    assert found.dtype == dtype
    off = np.linalg.norm(found_gradient - gradient) / np.linalg.norm(gradient)
    return np.abs(found - logits).max() / max(1, np.abs(logits).max()), off


def assert_same(module, image_shape):
    logits, gradient = difference(module, image_shape)
    assert logits <= 1e-4 and gradient <= 1e-3


def assert_same_in_float64(module, image_shape):
    """Deep networks: rounding in float32 puts some relus on the other side of 0, and moves gradients by up to 1e-2."""
    assert difference(module, image_shape)[0] <= 1e-4
    with jax.enable_x64(True):
        logits, gradient = difference(module.double(), image_shape, np.float64)
    assert logits <= 1e-6 and gradient <= 1e-6


def small_nets():
    yield "preact", torch_nets.PreActResNet(width=8, blocks=1)
    yield "preact-silu-normalised", torch_nets.Normalised(torch_nets.PreActResNet(F.silu, width=8, blocks=1))
    yield "wide", torch_nets.WideResNet(10, 1)
    yield "wide-silu-normalised", torch_nets.Normalised(torch_nets.WideResNet(10, 1, F.silu))
    yield "deepmind", torch_nets.DeepMindWideResNet(10, 1)


@pytest.mark.parametrize("name", [name for name, _ in small_nets()])
def test_robustbench_layouts_small(name):
    assert_same(torch_nets.scrambled(dict(small_nets())[name]), (32, 32, 3))


FULL = {
    "preact18": lambda: torch_nets.PreActResNet(),
    "preact18-silu-normalised": lambda: torch_nets.Normalised(torch_nets.PreActResNet(F.silu)),
    "wrn-28-10": lambda: torch_nets.WideResNet(),
    "wrn-28-10-silu-normalised": lambda: torch_nets.Normalised(torch_nets.WideResNet(activation=F.silu)),
    "deepmind-wrn-28-10": lambda: torch_nets.DeepMindWideResNet(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_robustbench_layouts_full_size(name):
    torch.manual_seed(0)
    assert_same_in_float64(torch_nets.scrambled(FULL[name]()), (32, 32, 3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b0"])
def test_torchvision(name):
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    torch.manual_seed(0)
    assert_same_in_float64(torch_nets.scrambled(models.get_model(name, weights=None)), (64, 64, 3))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "side"), [("vit_small_patch16_224", 224), ("convnext_tiny", 64)])
def test_timm(name, side):
    timm = pytest.importorskip("timm", reason="timm is not installed")
    torch.manual_seed(0)
    assert_same_in_float64(timm.create_model(name, pretrained=False).eval(), (side, side, 3))


class Head(nn.Module):
    """A function of the image, its first 16 values and a linear layer."""

    def __init__(self, function):
        super().__init__()
        self.function, self.linear = function, nn.Linear(16, 3)

    def forward(self, x):
        return self.linear(self.function(x).flatten(1)[:, :16])


def filled(x):
    y = x.clone()
    y[:, 1, ::2] = 0.25
    return y * x


OPERATORS = {
    "softplus of large values": lambda x: F.softplus(x * 200 - 100),
    "mish of large values": lambda x: F.mish(x * 200 - 100),
    "celu of large values": lambda x: F.celu(x * 200 - 100),
    "elu of large values": lambda x: F.elu(x * 200 - 100),
    "hardswish": lambda x: F.hardswish(x * 9 - 4),
    "relu6 after relu": lambda x: F.relu6(F.relu(x - 0.5) * 9),
    "clamp": lambda x: torch.clamp(input=x * 3 - 1, max=1, min=0),
    "clamp on one side": lambda x: x.clamp(max=0.7).clamp_min(0.2),
    "leaky_relu, by keyword": lambda x: F.leaky_relu(x - 0.5, negative_slope=0.3),
    "powers": lambda x: (x - 0.5) ** 2.0 + 2**x + x**x,
    "detach": lambda x: x + (torch.round(x * 8) / 8 - x).detach(),
    "normalize of zeros": lambda x: F.normalize(F.relu(x - 0.6)),
    "max_pool2d, ceil": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg_pool2d, ceil": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
    "avg_pool2d, padding not counted": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "adaptive_avg_pool2d": lambda x: F.adaptive_avg_pool2d(x, (5, 3)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x, 3),
    "group_norm": lambda x: F.group_norm(x, 3),
    "instance_norm": lambda x: F.instance_norm(x),
    "layer_norm": lambda x: F.layer_norm(x, (SIDE, SIDE)),
    "conv1d, groups": lambda x: F.conv1d(x.flatten(2), torch.ones(3, 1, 3), groups=3, padding="same"),
    "conv_transpose2d": lambda x: F.conv_transpose2d(
        x, torch.arange(54.0).sin().reshape(3, 2, 3, 3), stride=2, padding=1, output_padding=1
    ),
    "conv_transpose2d, groups": lambda x: F.conv_transpose2d(
        x, torch.arange(54.0).sin().reshape(3, 2, 3, 3), dilation=2, groups=3
    ),
    "interpolate, bilinear": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "interpolate, corners": lambda x: F.interpolate(x, size=13, mode="bilinear", align_corners=True),
    "interpolate, bicubic": lambda x: F.interpolate(x, size=7, mode="bicubic"),
    "interpolate, nearest": lambda x: F.interpolate(x, scale_factor=1.3),
    "pad, reflect": lambda x: F.pad(x, (1, 2, 1, 0), mode="reflect"),
    "pad, circular": lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
    "pad, negative": lambda x: F.pad(x, (-1, 2, 0, -2), value=0.3),
    "attention": lambda x: F.scaled_dot_product_attention(x, x.flip(2), x),
    "median": lambda x: F.unfold(x, 3).reshape(len(x), 3, 9, -1).median(2)[0],
    "k winners take all": lambda x: torch.where(x >= x.flatten(2).topk(9)[0][..., -1:, None], x, 0 * x),
    "cdist": lambda x: torch.cdist(x.flatten(2), torch.full((5, SIDE * SIDE), 0.5)).repeat(1, 2, 1),
    "one_hot": lambda x: F.one_hot((x * 3).long(), 4).float() * x[..., None],
    "assignment": filled,
    "roll": lambda x: x.roll(1, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "std": lambda x: torch.cat([x.std(dim=3), x.var(dim=2, unbiased=False)], 1),
    "logsumexp": lambda x: torch.logsumexp(x * 100, 1),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcdh", x, x),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name):
    torch.manual_seed(0)
    assert_same(Head(OPERATORS[name]).eval(), (SIDE, SIDE, 3))


def linear(size=SIDE * SIDE * 3, classes=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(size, classes))


def test_the_classifier_takes_nhwc_runs_without_torch_and_owns_its_weights():
    module = linear(5 * 7 * 1).eval()
    classifier = clead_jax.from_torch(module, (5, 7, 1), name="mine")
    assert (classifier.name, classifier.num_classes, classifier.image_shape) == ("mine", 4, (5, 7, 1))
    assert sorted(classifier.variables) == ["1.bias", "1.weight"]
    x = np.random.default_rng(0).random((2, 5, 7, 1), np.float32)
    before = np.asarray(classifier(x))
    with torch.no_grad():
        np.testing.assert_array_equal(clead_jax.from_torch(module, (5, 7, 1))(x), before)
    np.testing.assert_allclose(before, torch_answer(module, x)[0], atol=1e-5)
    with torch.no_grad():
        module[1].weight.zero_()
    np.testing.assert_array_equal(classifier(x), before)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), classifier.variables)
    assert classifier.forward(half, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


def test_an_audit_breaks_a_torch_module():
    torch.manual_seed(0)
    classifier = clead_jax.from_torch(linear().eval(), (SIDE, SIDE, 3))
    images = np.random.default_rng(0).random((16, SIDE, SIDE, 3), np.float32)
    labels = np.asarray(classifier(images)).argmax(-1)
    result = clead_jax.audit(classifier, images, labels, eps=0.5, attacks=("pgd",), checks=False, batch_size=16)
    assert result.accuracy["clean"] == 1 and result.accuracy["pgd"] == 0


def test_double_precision_is_kept():
    module = linear().double().eval()
    with jax.enable_x64(True):
        classifier = clead_jax.from_torch(module, (SIDE, SIDE, 3))
        x = np.random.default_rng(0).random((2, SIDE, SIDE, 3))
        expected = module(torch.tensor(x.transpose(0, 3, 1, 2))).detach().numpy()
        np.testing.assert_allclose(classifier(x), expected, rtol=1e-12)


def test_half_precision_differs_by_its_rounding_only():
    for module in (linear().half(), linear().bfloat16()):
        assert clead_jax.from_torch(module.eval(), (SIDE, SIDE, 3)).variables["1.weight"].dtype.itemsize == 2


class Outputs(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner, self.wrap = linear(), wrap

    def forward(self, x):
        return self.wrap(self.inner(x))


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx, gradient):
        return gradient


BAD = {
    "train mode": (lambda: linear().train(), r"train mode \(Sequential, 0, 1\); call module.eval\(\) first"),
    "a part in train mode": (lambda: nn.Sequential(linear().eval(), nn.Dropout()).eval().train(), r"train mode"),
    "no module": (lambda: np.sum, "needs a torch.nn.Module"),
    "tuple": (lambda: Outputs(lambda z: (z, z)).eval(), "not a tuple: wrap it in one that returns the logits"),
    "dict": (lambda: Outputs(lambda z: {"logits": z}).eval(), "not a dict: wrap it"),
    "one value": (lambda: Outputs(lambda z: z[:, 0]).eval(), r"logits \[B, K\] with K >= 2; .* gives \[2\]"),
    "feature map": (lambda: nn.Conv2d(3, 4, 3).eval(), r"gives \[2, 4, 6, 6\]"),
    "other channels": (lambda: nn.Conv2d(5, 4, 3).eval(), "cannot be run on NCHW images"),
    "missing operator": (
        lambda: Head(lambda x: torch.cummax(x, 1)[0]).eval(),
        r"aten.cummax.default; .*ATEN\['cummax'\]",
    ),
    "another missing operator": (lambda: Head(lambda x: torch.special.i0(x)).eval(), r"JAX form here: aten.i0"),
    "dropout at test time": (lambda: Head(lambda x: F.dropout(x, 0.5, True)).eval(), "no JAX form.*dropout"),
    "depends on the batch": (lambda: Head(lambda x: x - x.mean(0, keepdim=True)).eval(), "depend on the others"),
    "a backward of its own": (lambda: Head(StraightThrough.apply).eval(), "custom backward .*check=False"),
    "python branches": (lambda: Head(lambda x: x if x.sum() > 0 else -x).eval(), "torch.export cannot trace Head"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore")
def test_bad_modules_get_one_line(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as error:
        clead_jax.from_torch(make(), (SIDE, SIDE, 3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 32, 32), r"write \(32, 32, 3\)"),
        ((1, 28, 28), r"write \(28, 28, 1\)"),
        ((32, 32), "height, width, channels"),
    ],
)
def test_bad_image_shapes_get_one_line(shape, message):
    with pytest.raises(ValueError, match=message):
        clead_jax.from_torch(linear().eval(), shape)


def test_nchw_images_get_one_line():
    classifier = clead_jax.from_torch(linear().eval(), (SIDE, SIDE, 3))
    with pytest.raises(ValueError, match=r"Sequential takes images \[B, 8, 8, 3\], not \[2, 3, 8, 8\]"):
        classifier(np.zeros((2, 3, SIDE, SIDE), np.float32))
    with pytest.raises(ValueError, match=r"not \[2, 3, 8, 8\]; channels come last"):
        clead_jax.audit(classifier, np.zeros((2, 3, SIDE, SIDE), np.float32), np.zeros(2, int))


def test_an_operator_can_be_added(monkeypatch):
    module = Head(lambda x: torch.special.i0(x)).eval()
    monkeypatch.setitem(ATEN, "i0", jnp.i0)
    assert_same(module, (SIDE, SIDE, 3))


def test_what_a_custom_backward_hides_is_taken_on_request():
    classifier = clead_jax.from_torch(Head(StraightThrough.apply).eval(), (SIDE, SIDE, 3), check=False)
    assert not np.any(jax.grad(lambda x: classifier(x).sum())(jnp.full((1, SIDE, SIDE, 3), 0.3)))
