"""PyTorch's side of the comparison, in a process of its own: our weights in torch modules, attacked by torchattacks.

Images are passed as [B, H, W, C] in [0, 1]; inside they are torch's [B, C, H, W].
"""

import functools
import pickle
import time
from typing import Any

import numpy as np
import torch
import torchattacks
from torch import nn

DEVICES = {"cpu": "cpu", "gpu": "cuda"}  # our names and torch's
MAKERS = {
    "pgd": lambda net, c: torchattacks.PGD(net, c["eps"], c["step_size"], c["steps"], c["random_start"]),
    "apgd_ce": lambda net, c: torchattacks.APGD(net, "Linf", c["eps"], c["steps"], c["restarts"], loss="ce"),
    "square": lambda net, c: torchattacks.Square(
        net, "Linf", c["eps"], c["queries"], p_init=c["p_init"], resc_schedule=c["rescale"]
    ),
    "autoattack": lambda net, c: torchattacks.AutoAttack(net, "Linf", c["eps"], "standard", n_classes=c["classes"]),
}


class Normalise(nn.Module):
    """(x - mean) / std, as the first layer, as in our models."""

    def __init__(self, mean: float, std: float):
        super().__init__()
        self.mean, self.std = mean, std

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W] in [0, 1]."""
        return (x - self.mean) / self.std


class Block(nn.Module):
    """`models.resnet.BasicBlock`."""

    def __init__(self, tree: dict[str, Any], statistics: dict[str, Any], stride: int):
        super().__init__()
        part = lambda name, stride: conv_norm(tree[name], statistics[name], stride)
        self.main = nn.Sequential(part("ConvNorm_0", stride), nn.ReLU(), part("ConvNorm_1", 1))
        self.shortcut = part("shortcut", stride) if "shortcut" in tree else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [B, C, H, W]."""
        return torch.relu(self.shortcut(x) + self.main(x))


def network(weights: dict[str, Any]) -> nn.Module:
    """The net of `jax_side.Problem.weights`, in evaluation mode."""
    layers: list[nn.Module] = [Normalise(weights["mean"], weights["std"])]
    if "layers" in weights:
        layers += plain(weights["layers"], weights["strides"])
    else:
        layers += resnet(weights["params"], weights["batch_stats"])
    return nn.Sequential(*layers).eval()


def plain(layers: list[dict[str, Any]], strides: tuple[int, ...]) -> list[nn.Module]:
    """Convolutions with ReLU, the mean over pixels, a linear layer."""
    modules: list[nn.Module] = []
    for layer, stride in zip(layers[:-1], strides, strict=True):
        modules += [conv(layer, stride), nn.ReLU()]
    return [*modules, *pooled(), linear(layers[-1])]


def resnet(params: dict[str, Any], statistics: dict[str, Any]) -> list[nn.Module]:
    """`models.ResNet` of basic blocks with the CIFAR stem, and its head, from the variables of `models.Network`."""
    tree, running = params["backbone"], statistics["backbone"]
    modules: list[nn.Module] = [conv_norm(tree["stem"], running["stem"], 1), nn.ReLU()]
    for name in sorted(n for n in tree if n.startswith("stage")):
        stride = 2 if name.endswith("_block1") and not name.startswith("stage1_") else 1
        modules.append(Block(tree[name], running[name], stride))
    return [*modules, *pooled(), linear(params["head"])]


def conv_norm(tree: dict[str, Any], statistics: dict[str, Any], stride: int) -> nn.Module:
    """A convolution and the BatchNorm after it."""
    norm, running = tree["BatchNorm_0"], statistics["BatchNorm_0"]
    module = nn.BatchNorm2d(len(norm["scale"]))
    module.load_state_dict(
        {
            "weight": torch.tensor(norm["scale"]),
            "bias": torch.tensor(norm["bias"]),
            "running_mean": torch.tensor(running["mean"]),
            "running_var": torch.tensor(running["var"]),
        },
        strict=False,
    )
    return nn.Sequential(conv(tree["Conv_0"], stride), module)


def conv(tree: dict[str, Any], stride: int) -> nn.Module:
    """A convolution from a kernel [h, w, in, out] and a bias, if there is one; padded equally on all sides."""
    kernel = torch.tensor(tree["kernel"]).permute(3, 2, 0, 1).contiguous()
    out, channels, side, _ = kernel.shape
    module = nn.Conv2d(channels, out, side, stride, side // 2, bias="bias" in tree)
    return _filled(module, kernel, tree)


def linear(tree: dict[str, Any]) -> nn.Module:
    """A linear layer from a kernel [in, out] and a bias."""
    kernel = torch.tensor(tree["kernel"]).T.contiguous()
    return _filled(nn.Linear(kernel.shape[1], kernel.shape[0]), kernel, tree)


def pooled() -> list[nn.Module]:
    """[B, C, H, W] -> [B, C]."""
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]


def _filled(module: nn.Module, kernel: torch.Tensor, tree: dict[str, Any]) -> nn.Module:
    module.load_state_dict({"weight": kernel} | ({"bias": torch.tensor(tree["bias"])} if "bias" in tree else {}))
    return module


def environment(threads: int, device: str = "cpu") -> dict[str, Any]:
    """Sets the number of torch's threads; returns the versions. ValueError if torch has no such device."""
    torch.set_num_threads(threads)
    found = {"torch": torch.__version__, "torchattacks": torchattacks.__version__, "torch_threads": threads}
    if device == "cpu":
        return found
    if not torch.cuda.is_available():
        raise ValueError("--device=gpu: torch sees no GPU")
    rounds = {"matmul": torch.backends.cuda.matmul.allow_tf32, "convolution": torch.backends.cudnn.allow_tf32}
    return found | {"torch_device": torch.cuda.get_device_name(), "torch_tf32": rounds}


@functools.lru_cache(1)
def prepared(pickled: bytes, device: str, compiled: bool) -> nn.Module:
    """`network` of pickled weights on "cpu" or "gpu"; `compiled`: as `torch.compile` makes it, once for all turns."""
    net = network(pickle.loads(pickled)).to(DEVICES[device])
    return torch.compile(net) if compiled else net


def logits(pickled: bytes, images: np.ndarray, device: str = "cpu") -> np.ndarray:
    """The logits [B, K] of images [B, H, W, C]."""
    with torch.no_grad():
        return prepared(pickled, device, False)(_inward(images).to(DEVICES[device])).cpu().numpy()


def attack(
    pickled: bytes,
    name: str,
    settings: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    device: str = "cpu",
    compiled: bool = False,
) -> tuple[float, int]:
    """(seconds that the attack took, images still correct after it). The final check is not timed."""
    net, place = prepared(pickled, device, compiled), DEVICES[device]
    x, y = _inward(images).to(place), torch.tensor(labels, dtype=torch.long).to(place)
    finish = torch.cuda.synchronize if device == "gpu" else lambda: None
    run = MAKERS[name](net, settings)
    finish()
    begin = time.perf_counter()
    x_adv = run(x, y)
    finish()
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        return seconds, int((net(x_adv).argmax(1) == y).sum())


def _inward(images: np.ndarray) -> torch.Tensor:
    return torch.tensor(images).permute(0, 3, 1, 2).contiguous()
