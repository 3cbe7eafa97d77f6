"""What a program needs and what there is: counted by hand, and said in one line."""

import types

import jax
import numpy as np
import pytest

from clead_jax.core import memory, spec
from clead_jax.core.memory import Need, Room


def test_arguments_temporaries_and_outputs_of_a_program():
    x = np.zeros((1024, 256), np.float32)
    plain = jax.jit(lambda x: x + 1).lower(x).compile()
    assert memory.need(plain) == Need(arguments=2**20, temporaries=0, outputs=2**20, aliased=0)
    donated = memory.need(jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile())
    assert donated.total == 2**20 and donated.aliased == 2**20  # the result takes the argument's place


def test_a_backend_that_does_not_tell():
    assert memory.need(types.SimpleNamespace(memory_analysis=lambda: None)) is None


def test_the_devices_limit_counts_and_else_the_machines_memory():
    device = lambda stats: types.SimpleNamespace(process_index=0, memory_stats=lambda: stats)
    assert memory.room([device({"bytes_limit": 7}), device({"bytes_limit": 5})]) == Room(5)
    elsewhere = types.SimpleNamespace(process_index=1, memory_stats=lambda: {"bytes_limit": 3})
    assert memory.room([device({"bytes_limit": 5}), elsewhere]) == Room(5)
    here = memory.room(jax.devices())
    assert here == Room(memory.of_machine(), sharing=8) and 2**28 < here.limit < 2**50


def test_a_container_has_less_than_its_machine(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "some").write_text("12345\n")
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "max"), str(tmp_path / "none")))
    whole = memory.of_machine()
    monkeypatch.setattr(memory, "_LIMITS", (str(tmp_path / "max"), str(tmp_path / "some")))
    assert memory.of_machine() == 12345 < whole


def test_devices_that_share_a_memory_need_it_together():
    needed = Need(arguments=30, temporaries=60, outputs=10, aliased=0)
    assert Room(100).holds(needed) and not Room(99).holds(needed)
    assert Room(800, sharing=8).holds(needed) and not Room(799, sharing=8).holds(needed)


def test_the_line():
    needed = Need(2**28, 7 * 2**30, 0, 2**28)
    assert memory.line(needed, Room(30 * 2**30)) == (
        "a step needs 7.25 GiB (arguments 0.25 GiB, temporaries 7 GiB) of 30 GiB"
    )
    assert "on each of 8 devices, and the machine has 30 GiB" in memory.line(needed, Room(30 * 2**30, 8))


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 KiB"), (2**20, "1 MiB"), (5e7, "47.7 MiB"), (7.4e9, "6.89 GiB"), (2**41, "2,048 GiB")]
)
def test_bytes_are_written(count, text):
    assert spec.memory(count) == text


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (MemoryError(), True),
        (jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"), True),
        (jax.errors.JaxRuntimeError("INTERNAL: something else"), False),
        (ValueError("RESOURCE_EXHAUSTED"), False),
    ],
)
def test_which_errors_say_that_memory_is_spent(error, is_it):
    assert memory.exhausted(error) == is_it
