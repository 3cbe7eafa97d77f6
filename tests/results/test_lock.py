"""Two processes and one work directory: the second is refused or waits, and stale locks do not last."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from clead_jax.results import lock

HOLD = """
import sys, time
from clead_jax.results import lock
with lock.held(sys.argv[1]):
    print("holding", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path/run."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()


def write(workdir, **changes):
    """A lock of this process on this machine, with `changes`."""
    workdir.mkdir(exist_ok=True)
    (workdir / lock.NAME).write_text(json.dumps(lock._myself() | changes))


def test_a_second_process_is_refused_in_one_line_and_writes_nothing(tmp_path, holder):
    workdir = tmp_path / "run"
    before = (workdir / lock.NAME).read_bytes()
    with pytest.raises(ValueError, match="another process is at work in") as caught, lock.held(workdir):
        pytest.fail("not refused")
    said = str(caught.value)
    assert str(workdir) in said and f"pid {holder.pid} on {socket.gethostname()}, since 20" in said
    assert "python -c" in said and "delete" not in said and "\n" not in said and len(said) < 300 + len(str(workdir))
    assert [path.name for path in workdir.iterdir()] == [lock.NAME]
    assert (workdir / lock.NAME).read_bytes() == before


@pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_however_it_ends(tmp_path, error):
    try:
        with lock.held(tmp_path / "new"):
            assert json.loads((tmp_path / "new" / lock.NAME).read_text())["pid"] == os.getpid()
            if error:
                raise error
    except BaseException as raised:
        assert type(raised) is error
    assert list((tmp_path / "new").iterdir()) == []


def test_sigterm_removes_the_lock(tmp_path, holder):
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(timeout=10) == 128 + signal.SIGTERM
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_whose_process_was_killed_is_taken_over(tmp_path, holder, caplog):
    caplog.set_level("INFO", "clead_jax")
    holder.kill()
    holder.wait()
    with lock.held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / lock.NAME).read_text())["pid"] == os.getpid()
    assert f"pid {holder.pid}" in caplog.text and "taken over" in caplog.text
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.skipif(not lock._started(os.getpid()), reason="the system does not say when a process started")
def test_a_pid_that_another_process_has_now_is_stale(tmp_path):
    write(tmp_path, started="1")
    with lock.held(tmp_path):
        pass
    write(tmp_path)  # this very process: alive
    with pytest.raises(ValueError, match="another process"), lock.held(tmp_path):
        pass


@pytest.mark.parametrize("other", [{"host": "elsewhere"}, {"pids": "pid:[1]"}])
def test_another_machine_or_container_cannot_be_judged_and_the_way_out_is_said(tmp_path, other):
    write(tmp_path, pid=2**22 + 1, **other)
    with pytest.raises(ValueError, match=f"if it has ended, delete {tmp_path}/{lock.NAME}"), lock.held(tmp_path):
        pass
    (tmp_path / lock.NAME).write_text("")  # its writer was killed before it wrote, or the disk is full
    with pytest.raises(ValueError, match=r"unknown command .*delete"), lock.held(tmp_path):
        pass


def test_one_that_waits_gets_it(tmp_path, caplog):
    caplog.set_level("INFO", "clead_jax")
    write(tmp_path, host="elsewhere")
    threading.Timer(1.0, (tmp_path / lock.NAME).unlink).start()
    started = time.monotonic()
    with lock.held(tmp_path, wait=True):
        assert 0.9 < time.monotonic() - started < 10
    assert caplog.text.count("waiting for it") == 1


def test_a_child_takes_it_over_from_its_parent_and_keeps_it_when_the_parent_is_killed(tmp_path):
    child = [sys.executable, "-c", HOLD, str(tmp_path)]
    parent = f"""
import subprocess
from clead_jax.results import lock
with lock.held({str(tmp_path)!r}):
    subprocess.run({child!r})
"""
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "holding\n"
    pid = json.loads((tmp_path / lock.NAME).read_text())["pid"]
    assert pid != process.pid
    process.kill()
    process.wait()
    try:
        with pytest.raises(ValueError, match=f"pid {pid}"), lock.held(tmp_path):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        process.stdout.close()


def test_a_parent_clears_away_after_a_child_that_was_killed(tmp_path):
    with lock.held(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout.readline() == "holding\n"
        child.kill()
        child.communicate()
    assert list(tmp_path.iterdir()) == []


def test_of_many_that_find_one_stale_lock_never_two_hold_it(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "POLL", 0.001)
    at_once, most = [], []

    def work(barrier):
        barrier.wait()
        with lock.held(tmp_path, wait=True):
            at_once.append(1)
            most.append(len(at_once))
            time.sleep(0.001)
            at_once.pop()

    for _ in range(20):
        write(tmp_path, pid=2**22 + 1)  # no process can have it
        barrier = threading.Barrier(6)
        threads = [threading.Thread(target=work, args=[barrier]) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert list(tmp_path.iterdir()) == []
    assert max(most) == 1 and len(most) == 120


DAMAGE = ["[]", "3", "null", "{}", *({"pid": pid} for pid in ("x", -1, 2**70, None)), {"started": 5}, {"command": []}]


@pytest.mark.parametrize("damage", DAMAGE, ids=str)
def test_a_damaged_lock_is_one_line(tmp_path, damage):
    write(tmp_path, **(damage if isinstance(damage, dict) else {}))
    if isinstance(damage, str):
        (tmp_path / lock.NAME).write_text(damage)
    with pytest.raises(ValueError, match=r"unknown command .*delete") as error, lock.held(tmp_path):
        pass
    assert "\n" not in str(error.value)
