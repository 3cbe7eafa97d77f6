"""The smallest whole experiment: digits and a backbone of one convolution, or none. A plugin, as a user would write."""

import flax.linen as nn

from clead_jax.core.registry import BACKBONES

SETTINGS = {
    "plugins": "speck",
    "data.train_size": 64,
    "data.test_size": 32,
    "views": "clean,fgsm",
    "train_attack.steps": 1,
    "validation.every": 1,
    "validation.num_examples": 16,
    "validation.attack": "fgsm",
    "evaluation.attacks": "fgsm,pgd",
    "evaluation.steps": 2,
    "evaluation.curve": "0,0.1",
    "evaluation.curve_examples": 16,
    "evaluation.batch_size": 32,
    "evaluation.checks": False,
    "checkpoint.every": 1,
    "log.every": 2,
    "model.backbone": "speck",
    "model.width": 4,
    "model.projection_dim": 8,
    **{f"{stage}.epochs": 2 for stage in ("baseline", "supervised", "pretrain", "probe", "joint")},
    **{f"{stage}.batch_size": 16 for stage in ("baseline", "supervised", "pretrain", "probe", "joint")},
}


def command(workdir, config="configs/quickstart.py", **more):
    """The arguments of `clead_jax.main`, with `__` for the dot of a field."""
    settings = SETTINGS | {name.replace("__", "."): value for name, value in more.items()}
    return ["main", f"--config={config}", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in settings.items())]


class Speck(nn.Module):
    """Images [B, H, W, C] -> features [B, width]."""

    width: int
    stem: str
    dtype: str

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(self.width, (3, 3))(x)
        if self.stem == "imagenet":  # none of this size: here it stands for a backbone without BatchNorm
            return nn.relu(x).mean((1, 2))
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)).mean((1, 2))


BACKBONES.register("speck")(Speck)


@BACKBONES.register("flat")
class Flat(nn.Module):
    """Images [B, H, W, C] -> features [B, width], without convolutions: loops may stay rolled, and compile at once."""

    width: int
    stem: str
    dtype: str

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(self.width)(x.reshape(len(x), -1))
        return nn.relu(nn.BatchNorm(use_running_average=not train, momentum=0.9)(x))
