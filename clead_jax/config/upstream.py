"""Which other stages a stage reads: for its initial weights, for its attacks, as its teacher."""

from clead_jax.config.schema import Config
from clead_jax.core import spec

UNLABELLED = ("contrastive", "partner", "pairs")
ASCENDS = (*UNLABELLED, "online")  # what attacks may maximise, besides a stage's loss
DISTANCES = ("teacher", "student")  # and whose embeddings they may move away from


def origin(cfg: Config, stage: str) -> tuple[str, str] | None:
    """The weights (stage, "latest", "best" or their name) that a stage starts from, or None: fresh ones."""
    source, which = weights_of(cfg[stage].start)
    return None if source == "scratch" else (source, which)


def weights_of(text: str) -> tuple[str, str]:
    """'dynacl:momentum' -> ('dynacl', 'momentum'); 'pretrain' -> ('pretrain', 'latest')."""
    source, _, which = text.partition(":")
    return source, which or "latest"


def named_weights(cfg: Config, stage: str) -> tuple[str, ...]:
    """What the weights of a stage are called: the last and the best ones, an average, those of a momentum encoder."""
    own = cfg[stage]
    beside = [own.average.partition("(")[0], "momentum" if getattr(own, "key_momentum", 0) else ""]
    return ("latest", "best", *filter(None, beside))


def labelled_by(cfg: Config, stage: str) -> tuple[str, str] | None:
    """The weights that give a stage its labels, or None: true ones."""
    text = cfg[stage].pseudo_labels
    return weights_of(text) if text else None


def neighbours_of(cfg: Config, stage: str) -> tuple[str, str] | None:
    """The weights in whose features the images of a stage have neighbours, or None: there are none."""
    text = cfg[stage].neighbours
    return weights_of(text) if text else None


def distances(ascend: str) -> tuple[str, ...]:
    """'teacher,student' -> whose embeddings attacks move away from, one word per output; () if they do not."""
    words = spec.items(ascend)
    return words if set(words) <= {*DISTANCES} else ()


def reference(cfg: Config, stage: str) -> str | None:
    """The stage whose frozen weights the attacks of a stage look at, or None: its own current weights."""
    ascend = cfg[stage].ascend
    if words := distances(ascend):
        return teacher(cfg, stage) if "teacher" in words else None
    return None if ascend in ASCENDS else ascend


def teacher(cfg: Config, stage: str) -> str | None:
    """The stage whose frozen embeddings the loss of a stage is held against, or None."""
    return getattr(cfg[stage], "teacher", "") or None


def needed(cfg: Config, stage: str) -> set[str]:
    """The other stages whose weights a stage reads."""
    read = [origin(cfg, stage), labelled_by(cfg, stage), neighbours_of(cfg, stage)]
    named = [source[0] for source in read if source] + [reference(cfg, stage), teacher(cfg, stage)]
    return set(filter(None, named))
