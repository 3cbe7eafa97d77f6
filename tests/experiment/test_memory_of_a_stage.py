"""What a stage says of memory before it trains, and when there is none left."""

import jax
import pytest
import speck

from clead_jax import main
from clead_jax.core import memory
from clead_jax.experiment import builders, train
from clead_jax.training import checkpoint


@pytest.fixture
def command(tmp_path):
    return speck.command(tmp_path, model__backbone="flat", stages="baseline")


def test_one_line_before_a_stage_trains(command, capsys):
    main.main(command)
    said = [line for line in capsys.readouterr().out.splitlines() if "a step needs" in line]
    assert len(said) == 1 and said[0].startswith("baseline: a step needs ")
    assert "on each of 8 devices, and the machine has" in said[0]


def test_a_step_that_does_not_fit_is_refused_before_it_is_made(command, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "room", lambda devices: memory.Room(1000))
    monkeypatch.setattr(train, "fit", None)
    with pytest.raises(
        ValueError, match=r"^baseline: a step needs \d[^\n]* of 0.977 KiB; less is needed with "
    ) as caught:
        main.main(command)
    for word in ("baseline.batch_size=8", "model.dtype=bfloat16", "baseline.accumulate=2"):
        assert f"--config.{word}" in str(caught.value)
    assert "remat" not in str(caught.value)  # this backbone has none
    assert checkpoint.steps(builders.checkpoint_dir(str(tmp_path), "baseline")) == []


def test_memory_that_runs_out_all_the_same_is_one_line_and_keeps_the_checkpoint(command, monkeypatch, tmp_path):
    compiled = train.compiled_step

    def fails_in_the_second_epoch(*given):
        step, calls = compiled(*given), []

        def call(*args):
            calls.append(1)
            if len(calls) > 4:  # of four steps an epoch
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nBuffers: 1")
            return step(*args)

        return call

    monkeypatch.setattr(train, "compiled_step", fails_in_the_second_epoch)
    with pytest.raises(
        ValueError, match=r"^baseline: out of memory \(RESOURCE_EXHAUSTED[^\n]*\); less [^\n]*: step 4$"
    ):
        main.main(command)
    assert checkpoint.steps(builders.checkpoint_dir(str(tmp_path), "baseline")) == [4]


def test_what_needs_less_is_not_what_is_in_use_already():
    from clead_jax import config

    cfg = config.base()
    assert builders.less_memory(cfg, "pretrain") == (
        "less is needed with --config.pretrain.batch_size=256, --config.model.dtype=bfloat16, "
        "--config.model.remat=true, --config.pretrain.accumulate=2"
    )
    cfg.model.update({"dtype": "bfloat16", "remat": True})
    cfg.probe.update({"batch_size": 1, "trains": "head"})
    assert builders.less_memory(cfg, "probe") == "less is needed with a smaller model"
