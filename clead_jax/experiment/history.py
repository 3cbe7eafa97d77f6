"""What a work directory's config says of how a model was trained."""

from typing import Any

from clead_jax import config
from clead_jax.experiment import builders, stages
from clead_jax.experiment.label_use import label_use

HOW_TRAINED = ("start", "fresh", "trains", "attack", "views", "loss", "augment", "average")


def history(workdir: str, stage: str = "", plugins: str = "") -> dict[str, Any]:
    """What a work directory's config says of a stage, "" being the defended one: its name, labels used, epochs.

    Imports `plugins`, and none that only the config names. Raises ValueError for no work directory.
    """
    cfg, _ = config.restore(workdir)
    builders.import_named(cfg, workdir, plugins)
    stage = stage or cfg.defended
    if stage not in config.stages_of(cfg):
        return {"stage": stage, "label_use": [], "epochs": 0}
    own = cfg[stage]
    trained = {"kind": own.kind} | {field: own[field] for field in HOW_TRAINED if field in own}
    told = {"label_use": label_use(cfg, stage), "batch_stats": stages.batch_stats(cfg, stage)}
    return {"stage": stage, "epochs": own.epochs, "trained": trained, **told}
