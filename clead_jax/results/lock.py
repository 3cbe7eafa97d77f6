"""One process at a time in a work directory: the file WORKDIR/.lock says which.

The file is created with O_EXCL, which is atomic on local and network file systems alike, and holds JSON: host, pid,
when the process started, its command, and since when it holds the lock. A lock of this machine whose process has ended
is stale and taken over. A process of another machine cannot be looked up from here, so its lock is respected.
"""

import contextlib
import datetime
import json
import os
import shlex
import socket
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clead_jax.core import stopping
from clead_jax.core.progress import log
from clead_jax.results import forms

NAME = ".lock"
POLL = 0.5  # seconds between two looks at a lock that is waited for
Holder = dict[str, Any]
HOLDER = {"host": str, "pids": str, "pid": forms.Number(1, 2**31 - 1, whole=True)}
HOLDER |= dict.fromkeys(("started", "command", "since"), str)


@contextlib.contextmanager
def held(workdir: str | Path, wait: bool = False) -> Iterator[None]:
    """Holds the lock of `workdir`, which is made if it is absent, and removes it at the end, however that comes.

    While another process holds it this one is refused, or with `wait` waits. A process takes the lock over from its
    parent: so `sweep` holds it until the training that it started does, which goes on holding it if `sweep` is killed.
    Inside the context SIGTERM and its like raise SystemExit. Of several processes only one should call this.

    Raises ValueError, in one line, naming the process that holds the lock; nothing is written then.
    """
    path, mine = Path(workdir) / NAME, _myself()
    path.parent.mkdir(parents=True, exist_ok=True)

    def release() -> None:
        holder = _read(path)
        if holder == mine or (holder and _ended(holder) and _replace(path, holder, mine)):  # a child's that died
            path.unlink(missing_ok=True)

    with stopping.listening():
        _acquire(path, mine, wait)
        stopping.last_acts.append(release)
        try:
            yield
        finally:
            stopping.last_acts.remove(release)
            release()


def _acquire(path: Path, mine: Holder, wait: bool) -> None:
    said = False
    while not _create(path, mine):
        holder = _read(path)
        if holder is None:
            continue  # removed in between
        ended = _ended(holder)
        if ended or (holder.get("pid") == os.getppid() and _here(holder)):
            if not _replace(path, holder, mine):
                continue
            if ended:
                log.info(f"{path} was left by a process that has ended ({_described(holder)}); taken over")
            return
        unknown = not (_here(holder) and holder["started"])
        text = f"another process is at work in {path.parent}: {_described(holder)}"
        text += f"; if it has ended, delete {path}" * unknown
        if not wait:
            raise ValueError(text)
        if not said:
            log.info(f"{text}; waiting for it")
        said = True
        time.sleep(POLL)
        if stopping.name():  # inside `deferred` a signal waits for this
            stopping.check()


def _create(path: Path, content: Holder) -> bool:
    """Writes a lock unless there is one. Whether it did."""
    try:
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with os.fdopen(file, "w", encoding="utf-8") as f:
            json.dump(content, f)
    except BaseException:  # a full disk: an empty lock would have no owner
        path.unlink(missing_ok=True)
        raise
    return True


def _replace(path: Path, seen: Holder, mine: Holder) -> bool:
    """Puts `mine` in the place of a lock that still reads `seen`. Whether it did.

    That takes a lock of its own, which then becomes the lock in one rename: of two processes that saw the same stale
    lock, the second would otherwise replace what the first has just written.
    """
    claim = path.with_name(path.name + ".takeover")
    _acquire(claim, mine, wait=True)
    unchanged = _read(path) == seen
    os.replace(claim, path) if unchanged else claim.unlink()
    return unchanged


def _read(path: Path) -> Holder | None:
    """What a lock says; None if there is none, {} if it cannot be read after a second: it may just be being written."""
    for _ in range(10):
        try:
            forms.check(found := json.loads(path.read_text(encoding="utf-8")), HOLDER)
            return found
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            time.sleep(0.1)
    return {}


def _machine() -> Holder:
    """Which process table a pid belongs to. Containers may share a host name and not that."""
    try:
        return {"host": socket.gethostname(), "pids": os.readlink("/proc/self/ns/pid")}
    except OSError:
        return {"host": socket.gethostname(), "pids": ""}


def _myself() -> Holder:
    command, now = shlex.join(["python", *sys.orig_argv[1:]]), datetime.datetime.now().astimezone()
    process = {"pid": os.getpid(), "started": _started(os.getpid()), "command": command}
    return {**_machine(), **process, "since": now.isoformat(" ", "seconds")}


def _described(holder: Holder) -> str:
    pid, host, since = (holder.get(key, "unknown") for key in ("pid", "host", "since"))
    command = textwrap.shorten(holder.get("command", "unknown command"), 100, placeholder=" ...")
    return f"{command} (pid {pid} on {host}, since {since})"


def _here(holder: Holder) -> bool:
    """Whether a lock's pid can be looked up in this process table."""
    return _machine().items() <= holder.items()


def _ended(holder: Holder) -> bool:
    """Whether the process that wrote a lock is known to have ended: its pid is free, or another process has it now."""
    if not _here(holder):
        return False
    try:
        with contextlib.suppress(PermissionError):  # there is such a process, of another user
            os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return True
    return _started(holder["pid"]) not in ("", holder["started"])


def _started(pid: int) -> str:
    """When a process started, in ticks since boot (proc(5), stat); "" where the system does not say."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state == "Z" else fields[18]
