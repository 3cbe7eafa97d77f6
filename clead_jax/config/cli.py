"""What the doors share: flags (each call of `parse` has its own: absl refuses one defined twice), one-line errors."""

import codecs
import contextlib
import ctypes
import io
import os
import re
import runpy
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import flags
from ml_collections import config_flags

from clead_jax.config import schema
from clead_jax.config.sections import flatten
from clead_jax.config.validate import nearest
from clead_jax.core import cluster, spec, stopping
from clead_jax.core.progress import log

_TRIM_THRESHOLD, _MMAP_MAX, _MOST = -1, -4, 2**31 - 1  # of glibc's mallopt, from malloc.h


LESS_MEMORY = "a smaller batch_size, model or --config.data.train_size needs less"
_ASCII = {"∞": "inf", "ε": "eps", "≤": "<=", "±": "+/-", "×": "x", "−": "-", "–": "-", "—": "-", "→": "->", "…": "..."}


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """For a screen whose encoding lacks a sign."""
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_ASCII.get(sign) or ascii(sign)[1:-1] for sign in lacking), error.end


codecs.register_error("clead_jax.ascii", _in_ascii)


class _Number(flags.FloatParser):
    """A float field takes "8/255" too."""

    def convert(self, argument: str | float) -> float:
        return spec.number(argument)


config_flags.register_flag_parser_for_type(float, _Number())


def run(main: Callable[[list[str]], None]) -> None:
    """Calls main(sys.argv). Errors of users become one line on stderr and exit status 2; a signal 128 + its number.

    Those are ValueError, OSError and FloatingPointError with a message of one line, and too little memory;
    CLEAD_JAX_TRACEBACK=1 shows where they came from. Anything else is a bug and keeps its traceback.
    """
    keep_freed_memory()
    for screen in (sys.stdout, sys.stderr):
        if isinstance(screen, io.TextIOWrapper):
            screen.reconfigure(errors="clead_jax.ascii")
    sys.unraisablehook = lambda found: log.debug(f"ignored: {found.exc_value!r}")  # of threads whose error was raised
    with stopping.listening(at_once=True):
        try:
            main(sys.argv)
            cluster.end(0)
        except (KeyboardInterrupt, SystemExit) as end:
            if not stopping.name():
                raise
            cluster.before_the_end(seconds=0)
            said = f"stopped by {stopping.name()}; the same command goes on from the last checkpoint"
            _end(130 if isinstance(end, KeyboardInterrupt) else end.code, f"\n{said}", stopping.agreed())
        except Exception as error:
            cluster.before_the_end(seconds=2)
            message = str(error).strip()
            if isinstance(error, MemoryError) or ("RESOURCE_EXHAUSTED" in message and not isinstance(error, OSError)):
                message = f"out of memory ({(message or 'no more is to be had').splitlines()[0]}): {LESS_MEMORY}"
            elif not isinstance(error, ValueError | OSError | FloatingPointError | flags.Error):
                traceback.print_exc()
                cluster.end(1, f"{type(error).__name__}: {message.partition(chr(10))[0]}")
                sys.exit(1)
            if os.environ.get("CLEAD_JAX_TRACEBACK") or "\n" in message:
                traceback.print_exc()
                message = type(error).__name__
                cluster.end(2, message)
                sys.exit(2)
            _end(2, f"error: {message or type(error).__name__}")


def _end(status: Any, line: str, agreed: bool = False) -> NoReturn:
    """One line on stderr, unless that is gone with its terminal, and out."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)
    cluster.end(status, line, agreed)
    sys.exit(status)


def keep_freed_memory() -> None:
    """Lets this process keep memory that it frees, up to 2 GB, for its next allocations. Only glibc is told.

    XLA on the CPU allocates its buffers at every call, and glibc returns those above 32 MB to the system each time:
    22,000 page faults in every step of APGD on 128 images and a small CNN, which is half as fast again without them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _MOST)


def parse(argv: Sequence[str], define: Callable[[flags.FlagValues], None], usage: str) -> flags.FlagValues:
    """Parses argv with the flags that `define` adds, and --verbosity. `--help` prints the usage and exits 0.

    Raises ValueError for unknown or ill-typed flags, words that are no flag, and unknown config fields.
    """
    values = flags.FlagValues()
    flags.DEFINE_bool("help", False, "print this text", short_name="h", flag_values=values)
    said = "what is printed: -1 warnings only, 0 progress too, 1 details too"
    flags.DEFINE_integer("verbosity", 0, said, flag_values=values)
    define(values)
    if any(a in ("--help", "-h", "-help") for a in argv[1:]):
        print(usage.strip() + "\n\nflags:\n" + values.get_help())
        sys.exit(0)
    try:
        rest = values(expanded(argv))
    except flags.UnrecognizedFlagError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    except (flags.Error, TypeError, AttributeError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    if "distributed" in values and values.distributed and not os.environ.get("CLEAD_JAX_TRACEBACK"):
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # what jax's threads would say, `cluster` says in one line
    if len(rest) > 1:
        raise ValueError(f"{rest[1]!r} is no flag; did you mean --{rest[1].lstrip('-')}?")
    return values


def expanded(words: Sequence[str]) -> list[str]:
    """Words with ~ and ~NAME replaced wherever a path may begin, as a shell does it for a whole word only:
    '--workdir=~/x', '--workdirs=~/x,~/y', '--models=a=~/x:probe', '--config.data.name=npz:~/x'.
    """
    return [re.sub(r"(?:(?<=[=,:;(+])|^)~[\w.-]*(?=/|$|[,:])", lambda m: os.path.expanduser(m[0]), w) for w in words]


def joined(words: Sequence[str]) -> list[str]:
    """One word per flag, with two dashes and ~ `expanded`: ['-seeds', '0,1'] -> ['--seeds=0,1']."""
    found: list[str] = []
    for word in expanded(words):
        if not word.startswith("-") and found and "=" not in found[-1]:
            found[-1] += f"={word}"
        else:
            found.append(re.sub("^--?(?=[a-z])", "--", word))
    return found


def command(door: str, words: Sequence[str]) -> str:
    """What was typed, without the folders of this machine."""
    plain = (re.sub(r"(=(?:npz:|folder:)?)[/~]\S*/", r"\1", word) for word in words)
    return shlex.join(["python", "-m", f"clead_jax.{door}", *plain])


def config_path(argv: Sequence[str]) -> str:
    """The file behind --config, before any flag is parsed. Raises ValueError where it is absent or missing."""
    for flag, _, path in (word.partition("=") for word in joined(argv[1:])):
        if flag == "--config":
            if not os.path.isfile(path.partition(":")[0]):
                raise ValueError(f"no config file at {path!r}")
            return path
    raise ValueError("which config? write for example --config=configs/quickstart.py")


def config_name(path: str) -> str:
    """What a run of a config file is called: "configs/margin.py:ce" -> "margin-ce"."""
    file, _, argument = path.partition(":")
    return "-".join(filter(None, (Path(file).stem, argument)))


def preset(argv: Sequence[str]) -> schema.Config:
    """The config as the file behind --config has it. Raises ValueError where that is no config file."""
    path, _, argument = config_path(argv).partition(":")
    if "get_config" not in (module := runpy.run_path(path)):
        raise ValueError(f"{path} is no config file: it has no get_config()")
    try:
        cfg = module["get_config"](*([argument] if argument else []))
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    if not isinstance(cfg, schema.Config):
        raise ValueError(f"{path}: get_config() returns {type(cfg).__name__}; begin with clead_jax.config.base()")
    return cfg


def with_checked_config(argv: Sequence[str]) -> Sequence[str]:
    """argv, after a look at its --config.FIELDs. Raises ValueError for one that is unknown, naming the nearest."""
    if any(a in ("--help", "-h", "-help") for a in argv):
        return argv
    known = flatten(cfg := preset(argv))
    for word in argv[1:]:
        field = re.match("-+(?:no)?config[.]([^=]*)", word)
        if field and field[1] not in known:
            raise ValueError(nearest(field[1], cfg))
    return argv


def define_config(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """--config=FILE and --config.FIELD=VALUE, as in argv."""
    said = "config file, e.g. configs/quickstart.py"
    config_flags.DEFINE_config_file("config", None, said, flag_values=values, sys_argv=expanded(argv))


def define_distributed(values: flags.FlagValues) -> None:
    """--distributed, for `sharding.initialize`."""
    flags.DEFINE_bool("distributed", False, "join a cluster (SLURM, or JAX_COORDINATOR_ADDRESS)", flag_values=values)


@contextlib.contextmanager
def writing_in(directory: str) -> Iterator[None]:
    """Lets an OSError that names no file, as that of a full disk, name `directory`."""
    try:
        yield
    except OSError as error:
        if error.strerror and not error.filename:
            raise OSError(f"cannot write in {directory}: {error.strerror}") from error
        raise
