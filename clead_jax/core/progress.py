"""What a program says while it works: `log.info(...)`, shown by the doors on the first process only."""

import logging
import sys
import time
from collections.abc import Callable

log = logging.getLogger("clead_jax")


class _Stdout(logging.StreamHandler):
    """Writes where `print` would at this moment."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stdout
        super().emit(record)


def show(verbosity: int, is_main: Callable[[], bool] = lambda: True) -> None:
    """Prints on stdout what the package logs, if `is_main`: from -1 warnings only, 0 progress too, 1 details too.

    Called by the doors, not on import: a program that uses the package keeps its own logging.
    """
    handler = _Stdout()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: is_main())
    log.handlers = [handler]
    log.setLevel({-1: logging.WARNING, 0: logging.INFO}.get(max(-1, verbosity), logging.DEBUG))
    log.propagate = False
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax's threads: what they say is raised too


def seldom(seconds: float = 5.0, clock: Callable[[], float] = time.monotonic) -> Callable[[], bool]:
    """A question to ask before every line: () -> whether `seconds` have passed since it was made, or last said yes."""
    last = clock()

    def due() -> bool:
        nonlocal last
        if clock() - last < seconds:
            return False
        last = clock()
        return True

    return due
