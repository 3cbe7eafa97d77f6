"""Which other stages a stage reads: for its initial weights, for its attacks, as its teacher."""

from clead_jax.config.schema import Config
from clead_jax.core import spec

ASCENDS = ("contrastive", "partner", "online")  # what attacks may maximise, besides a stage's loss
DISTANCES = ("teacher", "student")  # and whose embeddings they may move away from


def origin(cfg: Config, stage: str) -> tuple[str, str] | None:
    """The checkpoint (stage, "latest" or "best") that a stage starts from, or None: from fresh weights."""
    source, _, which = cfg[stage].start.partition(":")
    return None if source == "scratch" else (source, which or "latest")


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
    return {*(origin(cfg, stage) or ())[:1], *filter(None, [reference(cfg, stage), teacher(cfg, stage)])}
