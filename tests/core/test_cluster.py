"""Several processes that meet, agree and end together, without jax; every wrong start and end is one line."""

import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from marks import slowly

ROOT = pathlib.Path(__file__).resolve().parents[2]

MEMBER = """
import sys, pathlib, time
from clead_jax.config import cli
from clead_jax.core import cluster
cluster.JOIN = 4.0
address, count, rank, workdir, act = sys.argv[1:6]
def main(argv):
    cluster.join(address, int(count), int(rank))
    print("joined", flush=True)
    exec(act)
cli.run(main)
"""


@pytest.fixture
def address():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start(address, count, rank, act="", workdir="."):
    words = [sys.executable, "-c", MEMBER, address, str(count), str(rank), str(workdir), act]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ends(processes):
    """[(status, stderr)] of all, which end within a minute."""
    said = [process.communicate(timeout=60) for process in processes]
    return [(process.returncode, error.strip()) for process, (_, error) in zip(processes, said, strict=True)]


def test_all_hear_all_in_order_and_end_at_their_own_time(address):
    act = "print([cluster.everyone([rank, n]) for n in range(3)]); time.sleep(0.5 * int(rank))"
    processes = [start(address, 3, rank, act) for rank in (2, 0, 1)]
    said = [process.communicate(timeout=60)[0].splitlines()[-1] for process in processes]
    assert said == [str([[[str(rank), n] for rank in range(3)] for n in range(3)])] * 3
    assert [process.returncode for process in processes] == [0, 0, 0]


@pytest.mark.parametrize(
    ("starts", "said"),
    [
        ([(3, 0), (3, 1)], "2 of 3 processes came within 4 s; missing: 2"),
        ([(2, 0), (3, 1)], "process 1 on .* was told of 3 processes, process 0 of 2"),
        ([(3, 0), (3, 1), (3, 1)], "two processes are number 1"),
        ([(2, 2)], "process 2 of 2: processes are counted from 0"),
        ([(2, 1)], "cannot reach process 0 at 127.0.0.1:.* within 4 s: Connection refused"),
    ],
    ids=["too few", "another number", "twice the same", "beyond", "no first"],
)
def test_a_wrong_start_is_one_line_from_each(address, starts, said):
    for status, error in ends([start(address, *numbers) for numbers in starts]):
        assert status == 2 and error.count("\n") == 0
        assert re.search(said, error)


@pytest.mark.parametrize("wrong", ["nonsense", "host:port", ":1", "node0:99999", ""])
def test_a_nonsense_address_is_one_line(wrong):
    [(status, error)] = ends([start(wrong, 2, 0)])
    assert status == 2 and error == f"error: {wrong!r} is no coordinator address; write HOST:PORT, e.g. node0:12345"


def test_a_port_that_is_taken_is_one_line(address):
    with socket.create_server(("", int(address.split(":")[1]))):
        [(status, error)] = ends([start(address, 2, 0)])
    assert status == 2 and "cannot listen on port" in error and "\n" not in error


WAIT = "for _ in range(600): time.sleep(0.1)"  # a signal that comes just before a sleep does not end it
AGREE = "cluster.agree({'seed': %s, 'the data': %s}, pathlib.Path(workdir, 'token'))"


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ((5, "'a'"), "differ in seed: 0 in process 0, 5 in process 1"),
        ((0, "'b'"), "differ in the data: a in process 0"),
    ],
)
def test_what_differs_is_named_by_all(address, tmp_path, facts, said):
    (tmp_path / "token").write_text("a token")
    processes = [start(address, 2, rank, AGREE % of, tmp_path) for rank, of in enumerate(((0, "'a'"), facts))]
    for status, error in ends(processes):
        assert status == 2 and said in error and "\n" not in error


def test_a_directory_that_is_not_shared_is_named(address, tmp_path):
    for name, text in (("here", "one"), ("there", "of an earlier run")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(text)
    processes = [
        start(address, 2, rank, AGREE % (0, 1), tmp_path / name) for rank, name in enumerate(("here", "there"))
    ]
    for status, error in ends(processes):
        assert status == 2 and "is not shared: process 1 on" in error and "\n" not in error


ENDS = [signal.SIGKILL, signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("killed", slowly([0, 1, 2], [0, 2]))
@pytest.mark.parametrize("number", slowly(ENDS, ENDS[:2]))
def test_one_that_ends_ends_the_others_and_is_named(address, killed, number):
    processes = [start(address, 3, rank, WAIT) for rank in range(3)]
    assert [process.stdout.readline() for process in processes] == ["joined\n"] * 3
    begun = time.monotonic()
    processes[killed].send_signal(number)
    found = ends(processes)
    assert time.monotonic() - begun < 20
    status = 2 if number == signal.SIGKILL else 128 + number
    for rank, (code, error) in enumerate(found):
        if rank != killed:
            assert (
                code == status
                and "\n" not in error
                and f"error: process {killed} on {socket.gethostname()} ended: " in error
            )
    assert number == signal.SIGKILL or (found[killed][0] == status and "\n" not in found[killed][1])


def test_an_error_of_one_is_told_by_all_and_one_that_is_done_is_not_missed(address):
    act = "if rank == '1': time.sleep(1); raise ValueError('no room')\nif rank == '0': time.sleep(60)"
    first, second, third = ends([start(address, 3, rank, act) for rank in range(3)])
    assert second == (2, "error: no room") and first[0] == 2 and "process 1 on" in first[1] and "no room" in first[1]
    assert third == (0, "")
