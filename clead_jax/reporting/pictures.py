"""Pictures of images and features: what the attack changed, and where the encoder puts the images."""

from typing import Any

import numpy as np
import threadpoolctl
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from clead_jax.reporting import labels, style

ROWS = 4
MAX_MODELS = 4  # whose attacked images are shown side by side
MAX_POINTS = 500  # images per model in the embedding: t-SNE then takes seconds
MAX_CLASSES = len(style.PALETTE)


def shown_attack(samples: dict[str, np.ndarray], results: dict[str, Any]) -> str | None:
    """The attack whose images are shown: that of the curves if it is there, else the first; None if none is."""
    known = {name.removesuffix("/prediction") for name in samples if name.endswith("/prediction")}
    named = [f"{model}/" for model in results["models"] if {"clean", "label"} <= samples.keys()]
    attacks = [name.removeprefix(model) for name in samples for model in named if name in known and model in name]
    preferred = results.get("curves", {}).get("attack", "pgd")
    return preferred if preferred in attacks else next(iter(attacks), None)


def pictured_models(samples: dict[str, np.ndarray], results: dict[str, Any], attack: str) -> list[str]:
    """The models that have images of an attack."""
    return [m for m in results["models"] if {f"{m}/{attack}", f"{m}/{attack}/prediction"} <= samples.keys()]


@style.styled
def perturbations(samples: dict[str, np.ndarray], results: dict[str, Any], attack: str) -> tuple[Figure, float]:
    """The first images; for every model what the attack adds, amplified, and the sum. Returns the amplification too."""
    models = pictured_models(samples, results, attack)[:MAX_MODELS]
    clean = samples["clean"][:ROWS]
    deltas = {model: samples[f"{model}/{attack}"][:ROWS] - clean for model in models}
    factor = 0.5 / max(1e-6, *(float(np.abs(delta).max()) for delta in deltas.values()))
    figure, axes = style.panels(1.28 * len(clean) + 0.5, len(clean), 1 + 2 * len(models))
    for row, (image, label) in enumerate(zip(clean, samples["label"], strict=False)):
        _show(axes[row, 0], image, f"label: {labels.class_title(label, results)}")
        for column, model in enumerate(models):
            left, right = axes[row, 1 + 2 * column : 3 + 2 * column]
            predicted = int(samples[f"{model}/{attack}/prediction"][row])
            mark = "✓" if predicted == label else "✗"
            _show(left, 0.5 + factor * deltas[model][row])
            _show(right, image + deltas[model][row], f"{mark} {labels.class_title(predicted, results)}")
    for ax, title in zip(axes[0], ["image", *len(models) * [f"change × {factor:.2g}", "attacked"]], strict=True):
        ax.set_title(title, fontsize=9, fontweight="normal")
    for ax, model in zip(axes[0, 1::2], models, strict=True):
        ax.text(0, 1.2, labels.model_title(model, results), transform=ax.transAxes, fontweight="bold", in_layout=False)
    figure.set_layout_engine("constrained", rect=(0, 0, 1, 1 - 0.2 / figure.get_figheight()))  # room for those names
    return figure, factor


def _show(ax: Axes, image: np.ndarray, caption: str = "") -> None:
    """An image [H, W, C] in [0, 1] with a line below it; one channel is shown in grey."""
    image = np.clip(image, 0, 1)
    image = image[..., :3] if image.shape[-1] > 2 else image[..., 0]
    ax.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    style.hide_axes(ax)
    ax.set_xlabel(caption, fontsize=8.5, labelpad=3)


def embedded_models(features: dict[str, np.ndarray], results: dict[str, Any]) -> list[str]:
    """The models whose features are there both ways, of clean images and of attacked ones, and more than one each."""
    both = [m for m in results["models"] if {"label", m, f"{m}/adversarial"} <= features.keys()]
    return [m for m in both if min(features[m].shape) > 1 and features[m].shape == features[f"{m}/adversarial"].shape]


@style.styled
def embeddings(features: dict[str, np.ndarray], results: dict[str, Any]) -> Figure:
    """Features in two dimensions (t-SNE): a column per model, above the images as they are, below under attack.

    One projection per model holds both, so that a cluster that falls apart under attack is seen to fall apart.
    """
    models = embedded_models(features, results)
    keep = np.flatnonzero(np.isin(features["label"], np.unique(features["label"])[:MAX_CLASSES]))[:MAX_POINTS]
    label = features["label"][keep]
    classes = np.unique(label)
    figure, axes = style.panels(6.2 if len(models) > 1 else 10.5, 2, len(models), sharex="col", sharey="col")
    for column, model in enumerate(models):
        both = np.stack([features[model][keep], features[f"{model}/adversarial"][keep]])
        clean, attacked = _project(both.reshape(2 * len(keep), -1)).reshape(2, len(keep), 2)
        title = labels.model_title(model, results)
        for ax, points, state in zip(axes[:, column], (clean, attacked), ("clean", "attacked"), strict=True):
            for color, name in zip(style.PALETTE, classes, strict=False):
                ax.scatter(*points[label == name].T, s=10, color=color, alpha=0.75, linewidths=0)
                _tag(ax, clean[label == name], labels.class_title(int(name), results))
            style.hide_axes(ax)
            ax.set_title(f"{title}: {state}")
    return figure


def _project(features: np.ndarray) -> np.ndarray:
    """[n, F] -> [n, 2] by t-SNE, started from the principal components: the same input gives the same picture."""
    perplexity = min(30.0, (len(features) - 1) / 3)
    with threadpoolctl.threadpool_limits(1):  # seconds; on a busy machine many threads wait minutes for each other
        return TSNE(init="pca", perplexity=perplexity, random_state=0).fit_transform(features.astype(np.float32))


def _tag(ax: Axes, cluster: np.ndarray, text: str) -> None:
    """The class's name above its clean images [n, 2]: colour alone would not do for ten classes."""
    where = np.median(cluster[:, 0]), np.quantile(cluster[:, 1], 0.9)
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    ax.annotate(text, where, xytext=(0, 3), textcoords="offset points", ha="center", va="bottom", fontsize=9,
                fontweight="bold", color=style.INK, path_effects=halo)  # fmt: skip
