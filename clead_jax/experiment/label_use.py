"""Where class labels enter a stage: what the report tells of it, and what data without labels cannot be used for."""

from clead_jax import config
from clead_jax.config import Config, Contrastive
from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.experiment.builders import attacked, extra_per_batch, stored


def label_use(cfg: Config, name: str) -> list[str]:
    """Where class labels entered a stage's model: training, probe, attacks, initial weights, positives, ..."""
    own, source = cfg[name], config.origin(cfg, name)
    before, needs = label_use(cfg, source[0]) if source else [], needs_labels(cfg, name)
    read = {"pseudo-labels": config.labelled_by(cfg, name), "neighbours": config.neighbours_of(cfg, name)}
    found = [use for use, of in read.items() if of and label_use(cfg, of[0])]
    if isinstance(own, Contrastive):
        parts = {
            "attacks": "attacks" in needs,
            "initial weights": bool(before),
            "teacher": bool(own.teacher and label_use(cfg, own.teacher)),
            "positives": "positives" in needs,
        }
        return [use for use, is_so in parts.items() if is_so] + found
    if not needs:
        return list(dict.fromkeys([*before, *found]))
    return list(dict.fromkeys(["probe", *before])) if "backbone" not in spec.items(own.trains) else ["training"]


def needs_labels(cfg: Config, name: str) -> list[str]:
    """What of a stage reads true labels of its images: its loss, its positives, its attacks.

    With pseudo-labels that is nothing, but for static views, which are made with the true ones.
    """
    reads = reads_labels(cfg, name)
    return reads if not config.labelled_by(cfg, name) else ["attacks"] if stored(cfg, name) else []


def reads_labels(cfg: Config, name: str) -> list[str]:
    """The same of labels of either kind."""
    own = cfg[name]
    loss, settings = spec.parse(getattr(own, "loss", "supcon"))
    compares, hostile = isinstance(own, Contrastive), [*attacked(cfg, name), *stored(cfg, name)]
    by_class = not compares or settings.get("positives", own.positives) == "class"
    declared = LOSSES[loss].info.get("uses_labels", True)
    uses = by_class if declared == "positives" else declared
    attacks = own.ascend not in config.UNLABELLED and not config.distances(own.ascend) and (compares or hostile)
    return [part for part, is_so in {"positives" if compares else "loss": uses, "attacks": attacks}.items() if is_so]


def check_extra(cfg: Config, name: str) -> None:
    """Raises ValueError where a stage cannot use `data.extra`, whose images have no labels."""
    own, said = cfg[name], f"data.extra is {cfg.data.extra!r}, whose images have no labels"
    if not (cfg.data.extra and isinstance(own, Contrastive) and name in spec.items(cfg.stages)):
        return
    if not extra_per_batch(cfg, name):
        raise ValueError(f"data.extra_share is {cfg.data.extra_share}: none of the {own.batch_size} images of a batch")
    if stored(cfg, name):
        raise ValueError(f"{said}: {name} has the static view {stored(cfg, name)[0]}, which is made with them")
    if "attacks" in needs_labels(cfg, name):
        known = ", ".join(config.UNLABELLED)
        raise ValueError(f"{said}: {name}.ascend={own.ascend} needs them; take {known}, or {name}.pseudo_labels")


def check_unlabelled(cfg: Config, name: str) -> None:
    """Raises ValueError for a stage that cannot be trained on data without labels."""
    if parts := needs_labels(cfg, name):
        without = [other for other in config.trained_stages(cfg) if not needs_labels(cfg, other)]
        can = f"stages that need none: {', '.join(without) or 'none'}"
        raise ValueError(f"{cfg.data.name} has no labels, which {name} needs for its {' and '.join(parts)}; {can}")
    if config.labelled_by(cfg, name) and not cfg.data.classes:
        raise ValueError(
            f"{cfg.data.name} has no labels: {name}.pseudo_labels needs data.classes, the number of clusters"
        )
