"""What training measured: one JSON object per line, and the same numbers for TensorBoard if tensorboardX is installed.

    {"stage": "pretrain", "step": 120, "epoch": 2, "loss": 1.31, "images_per_s": 5120.0}

A killed run leaves lines beyond its last checkpoint, the last one perhaps incomplete. Opening the file removes such a
line, and `drop_after` the steps that will be run again.
"""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clead_jax.results import forms, jsonl


class MetricWriter:
    """Appends records to `path` and event files to `tensorboard_dir`/STAGE, if given; nothing unless `active`."""

    def __init__(self, path: str | Path, tensorboard_dir: str | Path | None = None, active: bool = True):
        self._path, self._active = Path(path), active
        self._events_dir = tensorboard_dir if active and importlib.util.find_spec("tensorboardX") else None
        self._events: dict[str, Any] = {}
        self._keep(lambda record: True)

    def write(self, record: dict[str, Any]) -> None:
        """Add {"stage", "step", and numbers of any name}; it is in the file on return, in the event files soon."""
        if not self._active:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, default=float) + "\n")
        if self._events_dir:
            events = self._events.get(record["stage"]) or self._open_events(self._events_dir, record["stage"])
            for name in record.keys() - {"stage", "step"}:
                events.add_scalar(name, record[name], record["step"])

    def drop_after(self, stage: str, step: int) -> None:
        """Forget what `stage` wrote beyond `step`, the step that training resumes from."""
        self._keep(lambda record: record["stage"] != stage or record["step"] <= step)
        if self._events_dir:
            self._open_events(self._events_dir, stage, purge_step=step + 1)  # events only grow: this hides later ones

    def close(self) -> None:
        """Finish the event files."""
        for events in self._events.values():
            events.close()

    def _keep(self, wanted: Callable[[dict[str, Any]], bool]) -> None:
        """Rewrite the file with the wanted records, all at once: a kill leaves the old file or the new one."""
        if not self._active or not self._path.exists():
            return
        part = self._path.with_suffix(".part")
        kept = filter(wanted, jsonl.read(self._path, {"stage": str, "step": forms.COUNT}))
        part.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(part, self._path)

    def _open_events(self, directory: str | Path, stage: str, purge_step: int | None = None) -> Any:
        from tensorboardX import SummaryWriter

        suffix, folder = f".{purge_step or 0}", str(Path(directory) / stage)  # for files opened in the same second
        self._events[stage] = SummaryWriter(folder, purge_step=purge_step, filename_suffix=suffix, flush_secs=10)
        return self._events[stage]
