"""A run: the stages of a config, one after the other, in one work directory.

WORKDIR/config.json            the config of the last start, without paths of this machine
WORKDIR/checkpoints/<stage>/   see `training.checkpoint`; a stage is finished when its last step is there
WORKDIR/views/                 see `static_views`
WORKDIR/extra.json             see `extra_data`
WORKDIR/metrics.jsonl          one line per stage and epoch
WORKDIR/evaluation/, report/   see `evaluation.measurements` and `reporting`
"""

from pathlib import Path

from clead_jax.config import Config
from clead_jax.core import numerics, sharding
from clead_jax.core.progress import log
from clead_jax.experiment import extra_data, provenance, stages
from clead_jax.experiment.changes import refuse_changes
from clead_jax.experiment.context import open_run
from clead_jax.experiment.evaluate import check_source, evaluate
from clead_jax.experiment.train import train
from clead_jax.reporting import page


@numerics.defaults()
def run(cfg: Config, workdir: str, name: str, command: str = "") -> None:
    """Trains the stages that a config asks for, evaluates and reports, going on where an earlier run in `workdir` was.

    `name` and `command` are what the report calls the run and says to type. Raises ValueError for a config that cannot
    run or that differs, in a field a started stage depends on, from that of the work directory; OSError for a directory
    that cannot be written.
    """
    stages.check(cfg)
    refuse_changes(cfg, workdir)
    context = open_run(cfg, workdir, name)
    context.check_batches()
    if "evaluate" in context.asked:
        check_source(context)
    with context.alone():
        if sharding.is_main():
            context.save_config(command)
            extra_data.compare(context)
        left = provenance.passes_left(context)
        if sum(left.values()):
            log.info(provenance.cost_line(left))
        for stage in context.stages.values():
            left.pop(stage.name)
            train(context, stage, sum(left.values()))
        evaluated = evaluate(context) if "evaluate" in context.asked else Path(workdir) / "evaluation"
        if "report" in context.asked and sharding.is_main():
            written = page.build(workdir)
            log.info(f"\n{page.table(evaluated)}\n\nreport: {written}")
