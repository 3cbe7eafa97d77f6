"""The launch scripts, run on a copy of the repository with an interpreter that only notes what it is asked to do."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRIPTS = sorted([*(ROOT / "launch").iterdir(), ROOT / ".ci" / "run"])
COMMANDS = ("bash", "dirname", "cat", "cksum", "grep", "head", "tail")

# Stands in for python3 and, once "installed", for .venv/bin/python. Questions (-c, --version) go to the real one.
FAKE_PYTHON = """echo "$*" >>"{log}"
case "$*" in
  "-c "*ensurepip*) exit {ensurepip} ;;
  -c*|--version) exec "{python}" "$@" ;;
  "-m venv"*) {mkdir} -p "${{@: -1}}/bin" && {cp} "$0" "${{@: -1}}/bin/python" ;;
  "-m pip install"*) echo "{pip_output}"; exit {pip} ;;
  "-m ruff check"*) exit {ruff} ;;
  "-m clead_jax.main"*|"-m pytest"*) exit {program} ;;
esac
"""
ANSWERS = {"ensurepip": 0, "pip": 0, "pip_output": "", "ruff": 0, "program": 0}


def which(name: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is needed to run the tests"
    return path


class Machine:
    """A copy of the repository's root, and a PATH with nothing but COMMANDS and perhaps a python3."""

    def __init__(self, path: pathlib.Path):
        self.root, self.bin, self.log = path / "a repository", path / "bin", path / "log"
        self.root.mkdir()
        self.bin.mkdir()
        for name in ("pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        for name in ("launch", ".ci"):
            shutil.copytree(ROOT / name, self.root / name)
        for name in COMMANDS:
            (self.bin / name).symlink_to(which(name))

    def add_program(self, name: str, text: str) -> None:
        (self.bin / name).write_text(f"#!{which('bash')}\n{text}")
        (self.bin / name).chmod(0o755)

    def add_python(self, name: str = "python3", **answers) -> None:
        tools = {tool: which(tool) for tool in ("mkdir", "cp")}
        text = FAKE_PYTHON.format(log=self.log, python=sys.executable, **tools, **(ANSWERS | answers))
        self.add_program(name, text)

    def run(self, script: str, *args: str, **env: str) -> subprocess.CompletedProcess:
        self.log.write_text("")
        command = [str(self.bin / "bash"), str(self.root / script), *args]
        env = {"PATH": str(self.bin), "HOME": os.environ.get("HOME", "/"), **env}
        return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, timeout=60)

    def asked(self, prefix: str) -> list[str]:
        """What the last run asked of the interpreter, of the lines that begin with `prefix`."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(prefix)]


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def complaint(done: subprocess.CompletedProcess) -> str:
    """The one line a failed script leaves on stderr."""
    assert done.returncode != 0
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/test.sh", ".ci/run"])
def test_missing_python_is_named(machine, script):
    done = machine.run(script)
    assert "python3 is missing: sudo apt install python3 python3-venv" in complaint(done)
    assert not (machine.root / ".venv").exists()


def test_old_python_is_named_with_its_version(machine):
    machine.add_program("python3", '[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    assert "needs python 3.11 or newer, but python3 is Python 3.9.2" in complaint(machine.run("launch/quickstart.sh"))


def test_missing_venv_module_is_named(machine):
    machine.add_python(ensurepip=1)
    assert "sudo apt install python3-venv" in complaint(machine.run("launch/quickstart.sh"))


def test_no_network_is_told_apart_and_the_next_run_installs(machine):
    machine.add_python(pip=1, pip_output="WARNING: Retrying after connection broken by 'NewConnectionError'")
    assert "pip cannot reach its package index" in complaint(machine.run("launch/quickstart.sh"))
    assert not machine.asked("-m clead_jax.main")
    shutil.rmtree(machine.root / ".venv")
    machine.add_python()
    assert machine.run("launch/quickstart.sh").returncode == 0
    assert machine.asked("-m pip install")


def test_another_failure_of_pip_is_quoted(machine):
    machine.add_python(pip=1, pip_output="ERROR: No space left on device")
    assert "ERROR: No space left on device" in complaint(machine.run("launch/quickstart.sh"))


def test_python_can_be_named(machine):
    machine.add_python(name="other-python")
    assert machine.run("launch/quickstart.sh", PYTHON="other-python").returncode == 0


def test_quickstart_installs_with_constraints_then_runs_the_program(machine):
    machine.add_python()
    assert machine.run("launch/quickstart.sh", "--config.seed=1", "--note=a b").returncode == 0
    assert machine.asked("-m pip install") == ["-m pip install -c constraints.txt -e ."]
    expected = "-m clead_jax.main --config=configs/quickstart.py --workdir=runs/quickstart --config.seed=1 --note=a b"
    assert machine.asked("-m clead_jax.main") == [expected]


def test_install_is_skipped_until_something_changes(machine):
    machine.add_python()

    def installs(script: str) -> list[str]:
        assert machine.run(script).returncode == 0
        return machine.asked("-m pip install")

    assert installs("launch/quickstart.sh")
    assert not installs("launch/quickstart.sh")
    assert installs("launch/test.sh") == ["-m pip install -c constraints.txt -e .[test]"]
    assert not installs("launch/test.sh")
    assert not installs("launch/quickstart.sh")
    for name in ("pyproject.toml", "constraints.txt"):
        with (machine.root / name).open("a") as file:
            file.write("\n# changed\n")
        assert installs("launch/quickstart.sh"), name
        assert installs("launch/test.sh"), name
    machine.root = machine.root.rename(machine.root.with_name("moved"))
    assert installs("launch/quickstart.sh"), "an editable install points at the old place"


def test_the_test_extra_vouches_for_the_package(machine):
    machine.add_python()
    assert machine.run("launch/test.sh").returncode == 0
    assert machine.run("launch/quickstart.sh").returncode == 0
    assert not machine.asked("-m pip install")


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/test.sh", ".ci/run"])
def test_exit_status_is_the_program_s(machine, script):
    machine.add_python(program=3)
    assert machine.run(script).returncode == 3


def test_ci_lints_checks_types_and_tests_and_stops_at_the_first_failure(machine):
    machine.add_python()
    assert machine.run(".ci/run").returncode == 0
    steps = [line.split()[1] for line in machine.asked("-m ")]
    assert [step for step in steps if step not in ("pip", "venv")] == ["ruff", "ruff", "mypy", "pytest"]
    shutil.rmtree(machine.root / ".venv")
    machine.add_python(ruff=1)
    assert machine.run(".ci/run").returncode == 1
    assert not machine.asked("-m pytest")


def test_multihost_hands_the_host_list_to_jax(machine):
    machine.add_program("python3", 'echo "${!JAX_@}" $JAX_COORDINATOR_ADDRESS $JAX_NUM_PROCESSES $JAX_PROCESS_ID "$@"')
    hosts = {"COORDINATOR": "node0:123", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}
    done = machine.run("launch/multihost.sh", "--workdir=w", PYTHON="python3", **hosts)
    names = "JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES JAX_PROCESS_ID"
    assert done.stdout == f"{names} node0:123 2 1 -m clead_jax.main --distributed --workdir=w\n"
    for name in hosts:
        incomplete = {key: value for key, value in hosts.items() if key != name}
        assert name in complaint(machine.run("launch/multihost.sh", PYTHON="python3", **incomplete))


def test_slurm_starts_one_program_per_task_that_sees_every_gpu(machine):
    machine.add_program("srun", 'echo "$@"; exit 3')
    done = machine.run("launch/slurm.sbatch", "--workdir=w", PYTHON="python3", SLURM_CPUS_PER_TASK="8")
    assert done.stdout.endswith(" python3 -m clead_jax.main --distributed --workdir=w\n")
    assert "--gpu-bind=none" in done.stdout and "gpus-per-task=" not in (ROOT / "launch/slurm.sbatch").read_text()
    assert done.returncode == 3


@pytest.mark.parametrize(("status", "again"), [(138, True), (143, True), (0, False), (2, False)])
def test_slurm_asks_for_a_signal_early_and_a_stopped_run_is_queued_again(machine, status, again):
    """The stand-in for srun sends the batch script what SLURM would, and ends when that is passed on."""
    spin = "for ((i = 0; i < {}; i++)); do :; done"  # a second, then a minute
    machine.add_program(
        "srun",
        f"trap 'echo told; exit {status}' USR1\n{spin.format(2 * 10**5)}\nkill -USR1 $PPID\n{spin.format(10**7)}",
    )
    machine.add_program("scontrol", 'echo "$@"')
    done = machine.run("launch/slurm.sbatch", PYTHON="python3", SLURM_CPUS_PER_TASK="8", SLURM_JOB_ID="77")
    assert done.stdout == "told\n" + "requeue 77\n" * again and done.returncode == status
    assert re.search(r"^#SBATCH --signal=B:USR1@(\d+)$", (ROOT / "launch/slurm.sbatch").read_text(), re.M)[1] >= "120"


def test_constraints_pin_versions_and_nothing_else():
    """Every line is `name==version` with at most a marker on python's version: no place to download from."""
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    form = re.compile(r'[a-z0-9-]+==[0-9][0-9a-z.]*(; python_version (<|>=) "3\.12")?')
    assert pins and all(form.fullmatch(pin) for pin in pins), [pin for pin in pins if not form.fullmatch(pin)]


def test_measure_gpu_hands_its_arguments_on_and_installs_only_from_the_folder_named(machine, tmp_path):
    machine.add_python()
    assert "no wheels" in complaint(machine.run("launch/measure_gpu.sh", f"--wheels={tmp_path / 'none'}"))
    assert ".venv/bin/python is missing" in complaint(machine.run("launch/measure_gpu.sh", "--minutes=5"))
    (tmp_path / "some wheels").mkdir()
    (tmp_path / "some wheels" / "a-1-py3-none-any.whl").touch()
    for name in ("cut", "mkdir", "touch"):
        (machine.bin / name).symlink_to(which(name))
    site = machine.root / ".venv"
    asked = machine.run("launch/measure_gpu.sh", f"--wheels={tmp_path / 'some wheels'}", "--minutes=5", "--data=a b")
    assert asked.returncode == 0, asked.stderr
    [install] = machine.asked("-m pip install")
    assert "--no-index" in install and f"--target {site}" in install and install.endswith("a-1-py3-none-any.whl")
    assert machine.asked("-m benchmarks") == ["-m benchmarks.gpu.measure --minutes=5 --data=a b"]
