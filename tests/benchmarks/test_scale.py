"""What is counted in a program's text, and the command on two fake devices."""

import re

import pytest

from benchmarks import scale

PROGRAM = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %all-reduce.1 = f32[4,8]{1,0} all-reduce(%p), to_apply=%add
  %pair = (f32[3]{0}, bf16[2,5]{1,0}) all-reduce(%x, %y), to_apply=%add
  ROOT %all-gather = pred[16]{0} all-gather(%q), dimensions={0}
}
"""


def test_collectives_and_their_bytes():
    assert scale.collectives(PROGRAM) == {"all-reduce": [2, 4 * 32 + 4 * 3 + 2 * 10], "all-gather": [1, 16]}
    assert scale.collectives("ENTRY %main {\n  %a = f32[2]{0} add(%all-reduce.1, %b)\n}") == {}


def test_one_in_a_loop_is_refused():
    looped = PROGRAM.replace("add(%a, %b)", "all-reduce(%a), to_apply=%other")
    with pytest.raises(ValueError, match="all-reduce in a computation that another calls"):
        scale.collectives(looped)
    with pytest.raises(ValueError, match="no line begins with ENTRY"):
        scale.collectives("nothing")


def test_a_row():
    row = {"stage": "a", "devices": 2, "batch_size": 8, "arguments": 2**20, "temporaries": 2**19, "flops": 4e9}
    shown = scale.table([row | {"collectives": {"all-reduce": [3, 2**18]}}, row | {"collectives": {}}])
    assert "| a | 2 | 4 | 0.5 | 3 all-reduce | 0.25 | 1.00 | 0.50 |" in shown and "| none | 0.00 |" in shown


@pytest.mark.parametrize("flag", ["--devices=3", "--devices=0", "--devices=x"])
def test_devices_that_cannot_share_a_batch(flag):
    with pytest.raises(ValueError, match=re.escape(f"{flag.partition('=')[2]!r}; allowed: numbers that divide")):
        scale.main(["scale", flag])


@pytest.mark.slow
def test_the_command(capsys):
    words = ["--devices=1,2", "--stages=supervised", "--batch_size=16", "--config=configs/resnet18.py"]
    words += ["--config.model.backbone=tiny", "--config.model.width=4", "--config.train_attack.steps=1"]
    scale.main(["scale", *words])
    one, two = capsys.readouterr().out.splitlines()[2:]
    assert one.startswith("| supervised | 1 | 16 | ") and "| none |" in one
    assert re.search(r"^\| supervised \| 2 \| 8 \| .* \d+ all-reduce", two)
