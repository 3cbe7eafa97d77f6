"""Where class labels enter a stage: what the report tells of it, and what data without labels cannot be used for."""

from clead_jax import config
from clead_jax.config import Config, Contrastive
from clead_jax.core import spec
from clead_jax.core.registry import LOSSES
from clead_jax.experiment.builders import attacked, stored


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
    """What of a stage reads true labels of its images: its loss, its positives, its attacks; [] with pseudo-labels."""
    return [] if config.labelled_by(cfg, name) else reads_labels(cfg, name)


def reads_labels(cfg: Config, name: str) -> list[str]:
    """The same of labels of either kind."""
    own = cfg[name]
    loss, settings = spec.parse(getattr(own, "loss", "supcon"))
    uses = LOSSES[loss].info.get("uses_labels", settings.get("positives", getattr(own, "positives", "")) == "class")
    compares, hostile = isinstance(own, Contrastive), [*attacked(cfg, name), *stored(cfg, name)]
    attacks = own.ascend not in config.UNLABELLED and not config.distances(own.ascend) and (compares or hostile)
    return [part for part, is_so in {"positives" if compares else "loss": uses, "attacks": attacks}.items() if is_so]
