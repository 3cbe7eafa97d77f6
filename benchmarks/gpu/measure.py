"""Everything worth measuring on one GPU, in order of worth, as far as the time goes; a later call goes on.

    bash launch/measure_gpu.sh [--minutes=25] [--wheels=DIR] [--data=DIR] [--output=DIR]
    python -m benchmarks.gpu.measure [--minutes=25] [--data=DIR] [--output=DIR] [--work=DIR] [--rehearse]

Run it in the repository's folder. Steps are those of `steps.STEPS`. One is begun only if about as much time is left as
it takes; what it found is saved to results/gpu-<card>/<step>.json as soon as it is done, and a step whose file is there
is not done again. A step that takes longer than the call may is told to stop; trainings and evaluations then go on in
the next call. --data is the folder of prepared CIFAR-10; without it, and without torch, what needs them is left out.
--work holds work directories and logs. --rehearse goes through all steps at tiny size, on any device, and keeps the
records in a folder that no table reads.

Nothing is fetched over the network. Exit status 2: a step has failed; the others were done all the same.
"""

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from benchmarks.gpu.steps import STEPS, Step
from clead_jax.config import cli

PLATFORMS = {"gpu": "cuda,cpu"}  # of jax's backend; tests compare the two
GRACE = 120.0  # seconds in which a program that is told to stop saves
ASK = "import json; from clead_jax.core.sharding import machine; print(json.dumps(machine()))"


class Place(NamedTuple):
    """Where a call reads and writes."""

    data: str
    output: Path
    work: Path
    rehearse: bool
    platforms: str = "cpu"  # JAX_PLATFORMS of the commands


def _define(given: flags.FlagValues) -> None:
    flags.DEFINE_float("minutes", 25.0, "that this call may take", lower_bound=0.0, flag_values=given)
    flags.DEFINE_string("data", "", "folder of prepared CIFAR-10 (TFDS)", flag_values=given)
    flags.DEFINE_string("output", "results", "where gpu-<card>/ goes", flag_values=given)
    flags.DEFINE_string("work", "runs/gpu", "work directories and logs", flag_values=given)
    flags.DEFINE_bool("rehearse", False, "all steps at tiny size, on any device", flag_values=given)


def main(argv: list[str]) -> None:
    """Parses the command line, goes through the steps, says in a line what became of each."""
    given = cli.parse(argv, _define, __doc__)
    ends = time.monotonic() + 60 * given.minutes
    if given.data and not Path(given.data, "cifar10").is_dir():
        raise ValueError(f"--data: {given.data} holds no prepared cifar10")
    machine = asked()
    if machine["backend"] != "gpu" and not given.rehearse:
        raise ValueError(f"no GPU: jax computes on {machine['backend']}; --rehearse goes through it at tiny size")
    work = Path(given.work, "rehearsal" if given.rehearse else card(machine))
    output = work / "records" if given.rehearse else Path(given.output, card(machine))
    for folder in (output, work):
        folder.mkdir(parents=True, exist_ok=True)
    data, platforms = str(Path(given.data).resolve()) if given.data else "", PLATFORMS.get(machine["backend"], "cpu")
    place = Place(data, output, work, given.rehearse, platforms)
    print(f"{machine['devices']} x {machine['device']}, jax {machine['jax']}: records in {output}", flush=True)
    if failed := through(STEPS, place, machine, lambda: ends - time.monotonic()):
        raise ValueError(f"failed: {', '.join(failed)}; their logs are in {work}")


def asked() -> dict[str, Any]:
    """What a process of its own computes with: this one must not hold the device."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"jax does not start: {(done.stderr.strip() or 'no word').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def card(machine: dict[str, Any]) -> str:
    """'NVIDIA H100 80GB HBM3' -> 'gpu-h100-80gb-hbm3'."""
    words = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    return "gpu-" + words.removeprefix("nvidia-")


def through(steps: Sequence[Step], place: Place, machine: dict[str, Any], left: Callable[[], float]) -> list[str]:
    """Goes through the steps; the names of those that failed. `left` says how many seconds there are still."""
    failed = []
    for step in steps:
        if why := waits(step, place, left()):
            print(f"{step.name}: {why}", flush=True)
            continue
        said, record = done(step, place, left())
        print(f"{step.name}: {said}", flush=True)
        if record:
            part = place.work / f"{step.name}.part"
            part.write_text(json.dumps(record | {"machine": machine}, indent=1) + "\n", "utf-8")
            os.replace(part, place.output / f"{step.name}.json")
        elif not said.startswith("stopped"):
            failed.append(step.name)
    return failed


def waits(step: Step, place: Place, left: float) -> str:
    """Why a step is not begun now; '' if it is."""
    if (place.output / f"{step.name}.json").exists():
        return "done before"
    for need in step.needs:
        if need == "data":
            if not (place.data or place.rehearse):
                return "left out: it needs CIFAR-10, --data=DIR"
        elif importlib.util.find_spec(need) is None:
            return f"left out: {need} is not installed"
    for other in filter(None, (step.after, step.fit.of if step.fit else "")):
        if not (place.output / f"{other}.json").exists():
            return f"waits for {other}"
    if 60 * step.minutes > left and not place.rehearse:
        return f"waits: about {step.minutes:g} minutes, and {max(0.0, left) / 60:.0f} are left"
    return "" if left > 0 else "waits: no time is left"


def done(step: Step, place: Place, seconds: float) -> tuple[str, dict[str, Any] | None]:
    """Runs a step for at most so many seconds: what became of it, and its record if it is done."""
    file, log = _file(step, place), place.work / f"{step.name}.log"
    epochs = _epochs(step, place) if step.fit else 0
    typed = [word.replace("{epochs}", str(epochs)) for word in (*step.command, *step.tiny * place.rehearse)]
    places = {"{data}": place.data, "{work}": str(place.work), "{file}": str(file)}
    words = [_filled(word, places) for word in typed]
    began = time.monotonic()
    with log.open("ab") as out:
        status = _run([sys.executable, "-m", *words], out, seconds, place.platforms)
    spent = time.monotonic() - began
    if status is None:
        return f"stopped after {spent:.0f} s, the call's time is over; the next call goes on", None
    if status:
        said = [line for line in log.read_text("utf-8", "replace").split("\n") if line.strip()]
        return f"failed with status {status}: {said[-1] if said else 'no word'}", None
    shown = " ".join(["python -m", *(_filled(word, dict.fromkeys(places, "DIR")) for word in typed)])
    record = {"step": step.name, "command": shown, "seconds": round(spent, 1), "found": step.found(file, log)}
    return f"done in {spent:.0f} s", record


def _file(step: Step, place: Place) -> Path:
    """Where a step's numbers go; of an evaluation, beside the work directory."""
    return place.work / f"{step.after or step.name}.json"


def _filled(word: str, places: dict[str, str]) -> str:
    for name, path in places.items():
        word = word.replace(name, path)
    return word


def _epochs(step: Step, place: Place) -> int:
    """As many as fit, chosen once: a training that was stopped goes on with the same."""
    chosen = place.work / f"{step.name}.epochs"
    if not chosen.exists():
        assert step.fit
        record = json.loads((place.output / f"{step.fit.of}.json").read_text("utf-8"))
        chosen.write_text(str(step.fit.epochs(record)), "utf-8")
    return int(chosen.read_text("utf-8"))


def _run(words: list[str], out: Any, seconds: float, platforms: str) -> int | None:
    """The exit status of a command; None if it had to be stopped.

    jax leaves torch its share of the memory; tests, which else compile without optimization, compile as programs do.
    """
    settings = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": platforms}
    settings["XLA_FLAGS"] = f"--xla_backend_optimization_level=3 {os.environ.get('XLA_FLAGS', '')}"
    process = subprocess.Popen(words, stdout=out, stderr=out, env=os.environ | settings)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        return None
    finally:
        if process.poll() is None:
            process.kill()


if __name__ == "__main__":
    cli.run(main)
