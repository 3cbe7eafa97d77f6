"""Every record is there once, whatever was killed before."""

import json
import struct

import numpy as np
import pytest

from clead_jax.training.metric_writer import MetricWriter


def _records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_records_are_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first, second = {"stage": "a", "step": 1, "loss": 0.5}, {"stage": "a", "step": 2, "epoch": 1, "val_clean": 0.25}
    MetricWriter(path).write({**first, "loss": np.float32(0.5)})
    assert _records(path) == [first]
    MetricWriter(path).write(second)
    assert _records(path) == [first, second]


def test_drop_after_takes_back_one_stage_only(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = MetricWriter(path)
    for stage in ("baseline", "pretrain"):
        for step in (10, 20, 30):
            writer.write({"stage": stage, "step": step})
    writer.drop_after("pretrain", 20)
    writer.write({"stage": "pretrain", "step": 30})
    steps = [(record["stage"], record["step"]) for record in _records(path)]
    assert steps == [(stage, step) for stage in ("baseline", "pretrain") for step in (10, 20, 30)]
    writer.drop_after("pretrain", 0)
    assert [record["stage"] for record in _records(path)] == ["baseline"] * 3


@pytest.mark.parametrize("torn", ['{"stage": "a", "st', '{"stage": "a", "step": 2}', "{"])
def test_a_torn_last_line_is_removed(tmp_path, torn):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"stage": "a", "step": 1}\n' + torn)
    MetricWriter(path).write({"stage": "a", "step": 2})
    assert [record["step"] for record in _records(path)] == [1, 2]


def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path):
    path = tmp_path / "metrics.jsonl"
    damaged = '{"stage": "a", "step": 1}\n{"stage": "a", st}\n{"stage": "a", "step": 3}\n'
    path.write_text(damaged)
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2, is not valid JSON: [^\n]+$"):
        MetricWriter(path)
    assert path.read_text() == damaged


def test_other_processes_write_nothing(tmp_path):
    writer = MetricWriter(tmp_path / "metrics.jsonl", tmp_path / "events", active=False)
    writer.write({"stage": "a", "step": 1})
    writer.drop_after("a", 0)
    assert list(tmp_path.iterdir()) == []


def _events(directory):
    """(purge mark or None, {step: {name: value}}) for every event file, oldest first."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    for file in sorted(directory.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        content, scalars, purge = file.read_bytes(), {}, None
        while content:  # a TFRecord: length, checksum, bytes, checksum
            (length,) = struct.unpack("<Q", content[:8])
            event, content = Event.FromString(content[12 : 12 + length]), content[16 + length :]
            if event.session_log.status == SessionLog.START:
                purge = event.step
            for value in event.summary.value:
                scalars.setdefault(event.step, {})[value.tag] = value.simple_value
        yield purge, scalars


def test_tensorboard_shows_each_step_once(tmp_path):
    pytest.importorskip("tensorboardX")
    path, events = tmp_path / "metrics.jsonl", tmp_path / "events"
    writer = MetricWriter(path, events)
    for step in (1, 2):
        writer.write({"stage": "a", "step": step, "loss": 0.5 * step})
    writer.write({"stage": "b", "step": 1, "loss": 9.0})
    writer.close()
    resumed = MetricWriter(path, events)
    resumed.drop_after("a", 1)
    resumed.write({"stage": "a", "step": 2, "loss": 3.0})
    resumed.close()
    first, second = _events(events / "a")
    assert first == (None, {1: {"loss": 0.5}, 2: {"loss": 1.0}})
    assert second == (2, {2: {"loss": 3.0}})  # what was there from step 2 on is hidden
    assert [scalars for _, scalars in _events(events / "b")] == [{1: {"loss": 9.0}}]
