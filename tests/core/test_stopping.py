"""Signals: where they raise, where they wait, and that none is lost."""

import gc
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from clead_jax.core import stopping

ROOT = pathlib.Path(__file__).resolve().parents[2]
STOPPING = [number for number in stopping.SIGNALS if number != signal.SIGINT]


@pytest.mark.parametrize("number", STOPPING, ids=lambda number: number.name)
def test_a_signal_raises_where_it_finds_the_program(number):
    with pytest.raises(SystemExit) as end, stopping.listening():
        signal.raise_signal(number)
    assert end.value.code == 128 + number and signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", stopping.SIGNALS, ids=lambda number: number.name)
def test_a_deferred_one_waits_for_the_check_or_the_end(number):
    seen = []
    with pytest.raises((KeyboardInterrupt, SystemExit)), stopping.deferred():
        assert not stopping.due()
        signal.raise_signal(number)
        with stopping.deferred():  # has less to save
            stopping.check() if stopping.due() else None
        seen.append(stopping.name())
        stopping.check()
        seen.append("not reached")
    assert seen == [number.name] and not stopping.name()
    with pytest.raises((KeyboardInterrupt, SystemExit)), stopping.deferred():
        signal.raise_signal(number)
        seen.append("to the end")
    assert seen[1:] == ["to the end"]


def test_one_that_python_swallows_is_kept():
    """As in jax's callback of the garbage collector, and in a finaliser."""

    class Finalised:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def callback(phase, info):
        gc.callbacks.remove(callback)
        signal.raise_signal(signal.SIGINT)

    for swallow in (lambda: gc.callbacks.append(callback) or gc.collect(), Finalised):
        hook, sys.unraisablehook = sys.unraisablehook, lambda found: None
        try:
            with pytest.raises(KeyboardInterrupt), stopping.listening():
                swallow()
                with stopping.deferred():
                    assert stopping.due()
                    stopping.check()
        finally:
            sys.unraisablehook = hook


def test_a_handler_of_the_program_s_own_stays(monkeypatch):
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda *given: heard.append(1))
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with stopping.listening():
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGHUP, ignored)
    assert heard == [1]


def door(body):
    """A process under `cli.run` that has said "on" and does `body`."""
    code = f"""
import sys, time
from clead_jax.config import cli
def main(argv):
    print("on", flush=True)
    {body}
cli.run(main)
"""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}, **pipes)
    assert process.stdout.readline() == "on\n"
    return process


@pytest.mark.parametrize("number", stopping.SIGNALS, ids=lambda number: number.name)
def test_a_door_ends_with_128_and_the_signal_s_number_and_says_so(number):
    process = door("time.sleep(60)")
    process.send_signal(number)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 128 + number
    assert error.strip() == f"stopped by {number.name}; the same command goes on from the last checkpoint"


def test_a_second_ctrl_c_ends_at_once_even_inside_foreign_code():
    process = door("import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)")  # one call, minutes
    begun = time.monotonic()
    for _ in range(2):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise MemoryError('Unable to allocate 3. TiB')", "out of memory (Unable to allocate 3. TiB): "),
        ("bytearray(2**62)", "out of memory (no more is to be had): "),
        (
            "raise RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\\\\nBuffers: 1')",
            "out of memory (RES",
        ),
    ],
)
def test_too_little_memory_is_one_line(body, said):
    process = door(body)
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 2 and error.startswith(f"error: {said}") and error.count("\n") == 1
