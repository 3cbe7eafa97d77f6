"""Signals that ask a program to stop: it saves at its next step, says so, and ends with 128 + the signal's number.

A signal raises where it finds the program (KeyboardInterrupt for Ctrl-C, SystemExit for others), except inside
`deferred`: there it waits for the next `check`, or for the end of the block. It is kept until then, so that none is
lost where Python swallows exceptions, as in callbacks of the garbage collector. A second Ctrl-C does not wait.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
]
USUAL = (signal.SIG_DFL, signal.default_int_handler)  # a handler of the program's own stays, and so does nohup's

last_acts: list[Callable[[], None]] = []
"""What is to be done even where the process ends at once."""

_leaving = threading.Lock()
_came = 0  # the first signal
_due = False  # agreed
_depth = 0  # of blocks that defer
_tell: Callable[[], object] = lambda: None
_agreed: Callable[[], bool] = lambda: bool(_came)


def name() -> str:
    """The signal that came: 'SIGTERM'; '' for none."""
    return signal.Signals(_came).name if _came else ""


def agreed() -> bool:
    """Whether `due` has said yes, to all processes."""
    return _due


def share(tell: Callable[[], object], agreed: Callable[[], bool]) -> None:
    """Lets several processes stop at one step: one of them may `tell`, all ask whether it is `agreed` to stop now."""
    global _tell, _agreed
    _tell, _agreed = tell, agreed


@contextlib.contextmanager
def listening(at_once: bool = False) -> Iterator[None]:
    """Handles the signals that nothing handles yet; with `at_once` a second Ctrl-C ends the process wherever it is."""
    global _came, _due
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mine = [number for number, handler in before.items() if handler in USUAL]
    for number in mine:
        signal.signal(number, _handle)
    if at_once:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        threading.Thread(target=_end_at_second, args=(reading,), daemon=True).start()
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
        if at_once:
            os.close(signal.set_wakeup_fd(-1))
        if mine:
            _came, _due = 0, False


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Signals wait for `check`, or for the end of the outermost such block."""
    global _depth
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with listening():
        _depth += 1
        try:
            yield
        finally:
            _depth -= 1
        if _came and not _depth:
            _stop()


def due() -> bool:
    """Whether to save and stop now. Several processes must ask together, and get one answer."""
    global _came, _due
    if not _due and _agreed():
        _came, _due = _came or signal.SIGTERM, True
    return _due


def check() -> None:
    """Ends the program after `due` has said yes; not inside a second `deferred`: the first one has more to save."""
    if _depth <= 1:
        _stop()


def leave(status: int, line: str = "") -> NoReturn:
    """Ends the process at once, from any thread, with one line on stderr; of several threads the first."""
    _leaving.acquire()
    with contextlib.suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True) if line else None
    for act in last_acts:
        with contextlib.suppress(OSError):
            act()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
    os._exit(status)


def _handle(number: int, frame: object) -> None:
    global _came
    again, _came = _came and number == signal.SIGINT, _came or number
    _tell()
    if again or not _depth:
        _stop()


def _stop() -> NoReturn:
    raise KeyboardInterrupt if _came == signal.SIGINT else SystemExit(128 + _came)


def _end_at_second(pipe: int) -> None:
    """Python's own handlers wait for a compilation or a lost process; this thread does not."""
    asked = 0
    while number := os.read(pipe, 1):
        asked += 1
        if number[0] == signal.SIGINT and asked > 1:
            leave(128 + number[0])
