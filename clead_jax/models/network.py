"""The whole model: pixels in [0, 1] -> normalise -> backbone -> features -> projector | head.

    network = Network("resnet18", num_classes=10)
    variables = network.init(key, images, train=False)
    logits = network.apply(variables, images, train=False, method="logits")

Normalisation is part of the model, so attacks and checkpoints always refer to pixels in [0, 1]. Every stage shares one
tree of variables, {"params": {"backbone", "projector", "head"}, "batch_stats": {"backbone"}}; with
`projection_norm` the projector has batch statistics too.
"""

import jax.numpy as jnp
from flax import linen as nn

from clead_jax.core.registry import BACKBONES
from clead_jax.core.spec import PRECISIONS
from clead_jax.core.types import Array
from clead_jax.models.layers import batch_norm


class Projector(nn.Module):
    """An MLP in float32: of two layers in C-LEAD, section 4, and SimCLR, arXiv 2002.05709. With one it is linear.

    `hidden` 0 means the feature width. With `norm` BatchNorm follows every layer, as in ACL (arXiv 2010.13337).
    """

    dim: int = 128
    hidden: int = 0
    layers: int = 2
    norm: bool = False

    @nn.compact
    def __call__(self, features: Array, train: bool = False) -> Array:
        """Features [B, F] -> projections [B, dim], not normalised. `train` is for BatchNorm."""
        width, z = self.hidden or features.shape[-1], features
        normed = lambda z: batch_norm(train, "float32")(z) if self.norm else z
        for _ in range(self.layers - 1):
            z = nn.relu(normed(nn.Dense(width)(z)))
        return normed(nn.Dense(self.dim)(z))


class Network(nn.Module):
    """A registered backbone between pixel normalisation and two heads.

    `mean` and `std` hold one value per channel, or one for all. `dtype` is what the backbone computes in: parameters,
    batch statistics and outputs stay float32. With `remat` its blocks keep no activations for gradients.

    Raises ValueError for an unknown backbone, stem or dtype, and for a mean and std that do not fit the images.
    """

    backbone: str
    num_classes: int
    width: int = 64
    stem: str = "cifar"
    dtype: str = "float32"
    projection_dim: int = 128
    projection_hidden: int = 0
    projection_layers: int = 2
    projection_norm: bool = False
    remat: bool = False
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)

    def setup(self) -> None:
        """Creates the three parts. The variables of `encoder` are named "backbone", an attribute already taken."""
        if self.dtype not in PRECISIONS:
            raise ValueError(f"unknown dtype {self.dtype!r}: known: {', '.join(PRECISIONS)}")
        make_backbone = BACKBONES[self.backbone].value
        more = {"remat": True} if self.remat else {}
        self.encoder = make_backbone(width=self.width, stem=self.stem, dtype=self.dtype, name="backbone", **more)
        widths = self.projection_dim, self.projection_hidden, self.projection_layers
        self.projector = Projector(*widths, norm=self.projection_norm)
        self.head = nn.Dense(self.num_classes)

    def features(self, x: Array, train: bool) -> Array:
        """Images [B, H, W, C] in [0, 1] -> features [B, F]. `train` uses and updates batch statistics."""
        return self.encoder(self.normalize(x), train)

    def project(self, features: Array, train: bool = False) -> Array:
        """Features [B, F] -> projections [B, projection_dim]."""
        return self.projector(features, train)

    def classify(self, features: Array) -> Array:
        """Features [B, F] -> logits [B, num_classes]."""
        return self.head(features)

    def logits(self, x: Array, train: bool) -> Array:
        """Images [B, H, W, C] in [0, 1] -> logits [B, num_classes]: the classifier, end to end."""
        return self.classify(self.features(x, train))

    def embed(self, x: Array, train: bool) -> Array:
        """Images [B, H, W, C] in [0, 1] -> projections [B, projection_dim]: what the contrastive losses compare."""
        return self.project(self.features(x, train), train)

    def __call__(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
        """Images [B, H, W, C] in [0, 1] -> (features, projections, logits). For `init`: it uses every part."""
        features = self.features(x, train)
        return features, self.project(features, train), self.classify(features)

    @nn.nowrap
    def normalize(self, x: Array) -> Array:
        """Images [B, H, W, C] in [0, 1] -> (x - mean) / std, per channel."""
        channels = x.shape[-1]
        if len(self.mean) not in (1, channels) or len(self.std) not in (1, channels) or min(self.std) <= 0:
            needed = f"images of {channels} channels need 1 or {channels} means and positive stds"
            raise ValueError(f"{needed}, not mean={self.mean} and std={self.std}")
        return (x.astype(jnp.float32) - jnp.array(self.mean)) / jnp.array(self.std)
