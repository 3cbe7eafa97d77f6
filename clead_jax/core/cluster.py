"""Several processes of one program: all are there, all agree, and all end when one does.

The first process listens at the coordinator's address until the others have come; then jax takes the port, and the
connections stay. What a process says reaches all others through the first. A connection that closes is a process that
has ended: the others end too, in one line that names it, for jax would wait for it for minutes and abort.
"""

import contextlib
import json
import os
import queue
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from clead_jax.core import stopping

JOIN = 40.0  # seconds in which all must have come
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}  # a machine that is gone is noticed in 30 s


class _Member:
    """This process's place among the others."""

    def __init__(self, rank: int, count: int):
        self.rank, self.hosts = rank, {rank: socket.gethostname()}
        self.links: dict[int, socket.socket] = {}  # to the first process; of the first to every other
        self.said: dict[int, queue.SimpleQueue] = {other: queue.SimpleQueue() for other in range(count)}
        self.done: set[int] = set()
        self.ending = threading.Lock()  # is never released: one cause is enough

    def send(self, message: dict[str, Any], but: int | None = None) -> None:
        for other, link in self.links.items():
            if other != but:
                with contextlib.suppress(OSError):  # its reader has noticed too
                    link.sendall(json.dumps(message).encode() + b"\n")

    def listen(self, link: socket.socket, other: int) -> None:
        """Hears `other`, and through the first process the rest, until it is done."""
        with contextlib.suppress(OSError, ValueError):
            for line in link.makefile():
                self.hear(json.loads(line), other)
        if other not in self.done:
            gone = "killed, out of memory, or its machine is gone"
            self.hear({"from": other, "end": f"it said nothing ({gone})", "status": 2}, other)

    def hear(self, message: dict[str, Any], link: int) -> None:
        who = message["from"]
        self.send(message, but=link)
        if "say" in message:
            self.said[who].put(message["say"])
        elif "end" in message and self.ending.acquire(blocking=False):
            time.sleep(self.rank == 0)  # jax's service lives in the first process: the others leave before it
            stopping.leave(message["status"], f"error: process {who} on {self.hosts[who]} ended: {message['end']}")
        elif "done" in message:
            self.done.add(who)


_me: _Member | None = None


def join(address: str, count: int, rank: int) -> None:
    """Meets the `count` - 1 other processes at "host:port". Raises ValueError, in one line, where they do not come."""
    global _me
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is no coordinator address; write HOST:PORT, e.g. node0:12345")
    if not 0 <= rank < count:
        raise ValueError(f"process {rank} of {count}: processes are counted from 0, so one number is wrong")
    me, deadline = _Member(rank, count), time.monotonic() + JOIN
    (_gather if rank == 0 else _call)(me, host.strip("[]"), int(port), count, deadline)
    for other, link in me.links.items():
        link.settimeout(None)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEPALIVE.items():
            if hasattr(socket, option):
                link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        threading.Thread(target=me.listen, args=(link, other), daemon=True).start()
    if rank and not os.environ.get("CLEAD_JAX_TRACEBACK"):
        _hide_abort()
    _me = me


def _hide_abort() -> None:
    """Where the first process is gone, jax aborts this one too, with a stack trace; all else on stderr goes through."""
    real, (reading, writing) = os.dup(2), os.pipe()
    os.dup2(writing, 2)
    sys.stderr = os.fdopen(real, "w", buffering=1)

    def forward() -> None:
        for line in os.fdopen(reading, errors="replace"):
            if "Terminating process because the JAX distributed service" in line:
                break
            sys.stderr.write(line)

    threading.Thread(target=forward, daemon=True).start()


def _gather(me: _Member, host: str, port: int, count: int, deadline: float) -> None:
    """The first process: waits for the others, then tells them who is there, or what is wrong."""
    try:
        listener = socket.create_server(("", port), backlog=count)
    except OSError as error:
        raise ValueError(f"cannot listen on port {port}, the coordinator's: {error.strerror}") from None
    wrong = ""
    with listener:
        while len(me.hosts) < count and not wrong:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                link, _ = listener.accept()
                link.settimeout(max(1.0, deadline - time.monotonic()))
                hello = json.loads(_line(link))
                other, said = int(hello["rank"]), int(hello["count"])
            except TimeoutError:
                missing = ", ".join(str(other) for other in range(count) if other not in me.hosts)
                wrong = f"{len(me.hosts)} of {count} processes came within {JOIN:.0f} s; missing: {missing}"
                wrong += " (is the number of processes right, and was each started?)"
                break
            except (OSError, ValueError, KeyError, TypeError):
                continue  # something else that knocked at the port
            if said != count:
                wrong = f"process {other} on {hello['host']} was told of {said} processes, process 0 of {count}"
            elif other in me.hosts:
                wrong = f"two processes are number {other}, on {me.hosts[other]} and {hello['host']}"
                me.links[-1] = link
            me.links.setdefault(other, link)
            me.hosts.setdefault(other, hello["host"])
    me.send({"wrong": wrong, "hosts": me.hosts})
    if wrong:
        raise ValueError(wrong)


def _call(me: _Member, host: str, port: int, count: int, deadline: float) -> None:
    """Another process: reports to the first, which may not have started yet."""
    last: Any = "no answer"
    while time.monotonic() < deadline:
        try:
            link = socket.create_connection((host, port), timeout=5)
            link.settimeout(deadline + 10 - time.monotonic())  # the first one's verdict comes before
            link.sendall(json.dumps({"rank": me.rank, "count": count, "host": me.hosts[me.rank]}).encode() + b"\n")
            answer = json.loads(_line(link))
        except (OSError, ValueError) as error:
            last = getattr(error, "strerror", None) or last
            time.sleep(0.5)
            continue
        if answer["wrong"]:
            raise ValueError(answer["wrong"])
        me.links[0], me.hosts = link, {int(other): name for other, name in answer["hosts"].items()}
        return
    raise ValueError(f"cannot reach process 0 at {host}:{port} within {JOIN:.0f} s: {last}")


def _line(link: socket.socket) -> bytes:
    """Reads one line and nothing beyond it."""
    found = b""
    while not found.endswith(b"\n") and (byte := link.recv(1)):
        found += byte
    return found


def everyone(value: Any) -> list[Any]:
    """The plain value of every process; all must call. Compiles nothing."""
    if _me is None:
        return [value]
    _me.send({"from": _me.rank, "say": value})
    _me.said[_me.rank].put(value)
    return [_me.said[rank].get() for rank in sorted(_me.said)]


def agree(facts: dict[str, Any], token: Path) -> None:
    """Raises ValueError, on every process, where their facts differ or not all see the first one's file `token`."""
    if _me is None:
        return
    all_facts = everyone({name: str(value) for name, value in facts.items()})
    for rank, theirs in enumerate(all_facts):
        for name in all_facts[0]:
            if theirs.get(name) != (first := all_facts[0][name]):
                there = f"{str(theirs.get(name))[:60]} in process {rank} on {_me.hosts[rank]}"
                raise ValueError(f"the processes differ in {name}: {first[:60]} in process 0, {there}")
    text = everyone(token.read_text() if _me.rank == 0 else "")[0]
    deadline = time.monotonic() + 10  # network file systems remember for seconds that there was no file
    while not (seen := token.exists() and token.read_text() == text) and time.monotonic() < deadline:
        time.sleep(0.2)
    if blind := [f"{rank} on {_me.hosts[rank]}" for rank, saw in enumerate(everyone(seen)) if not saw]:
        raise ValueError(
            f"{token.parent} is not shared: process {', '.join(blind)} does not see process 0's files in it"
        )


def before_the_end(seconds: float) -> None:
    """After an error: if it came of another process's end, that is heard within `seconds`, and said instead of it."""
    if _me is not None:
        time.sleep(seconds)
        if not _me.ending.acquire(blocking=False):
            time.sleep(60)  # another thread is about to leave


def end(status: int, line: str = "", agreed: bool = False) -> None:
    """Tells the others why this process ends, which ends them too; then ends it, unless the status is 0.

    With status 0, or where all have `agreed` to stop, it tells that it is done, and the others end by themselves.
    """
    if _me is None:
        return
    alone = status and not agreed
    said = {"end": line.strip().removeprefix("error: "), "status": status} if alone else {"done": True}
    _me.send({"from": _me.rank, **said})
    if alone:
        time.sleep(_me.rank == 0)
    while not alone and _me.rank == 0 and not _me.done >= _me.links.keys():  # what others say goes through this process
        time.sleep(0.05)
    if status:
        stopping.leave(status)
