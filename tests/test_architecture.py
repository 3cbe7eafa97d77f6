"""The shape of the package: who may import whom, what starts without jax, and how long a file may grow."""

import ast
import graphlib
import importlib.metadata
import importlib.util
import itertools
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clead_jax"
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
DOORS = ("main", "evaluate", "audit", "report", "compare", "sweep", "benchmark", "export", "methods")
"""What a person types or calls; nothing imports them."""

MAY_IMPORT = {
    "core": (),
    "config": ("core",),
    "results": ("core",),
    "data": ("core",),
    "models": ("core",),
    "attacks": ("core",),
    "losses": ("core",),
    "interop": ("core",),
    "training": ("core", "results"),
    "evaluation": ("core", "attacks", "results"),
    "reporting": ("core", "config", "results"),
    "experiment": (
        *("core", "config", "results", "data", "models", "attacks", "losses", "interop"),
        *("training", "evaluation", "reporting"),
    ),
}
"""Package -> the packages that it may import, besides itself."""

READ_THE_CONFIG = (
    "builders",
    "planning",
    "stages",
    "terms",
    "history",
    "label_use",
    "embeddings",
    "context",
)  # of experiment; below it nothing knows a config
WITHOUT_JAX = ("config", "results", "reporting")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imported_parts(source: str, package: str) -> set[str]:
    """The parts of clead_jax (`attacks`, `types`, ...) that `source`, a module of `package`, imports anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            base = importlib.util.resolve_name(relative, package) if node.level else relative
            # `from clead_jax import attacks` names a part by its alias, `from clead_jax.attacks import pgd` does not.
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("clead_jax.")}


def parts_of(module: str) -> set[str]:
    path = FILES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return imported_parts(path.read_text(), package)


def loaded_after(code: str) -> set[str]:
    """Top-level names of the modules that a fresh interpreter holds after `code`."""
    show = "\nimport sys; print('\\n'.join({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code + show], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_parser_sees_every_form_of_import():
    source = (
        "import clead_jax.data.cache\nfrom clead_jax import types as t\nfrom clead_jax.models import resnet\n"
        "from . import norms\nfrom ..losses import nce\nimport jax.numpy\ndef f():\n    from .. import build\n"
    )
    assert imported_parts(source, "clead_jax.attacks") == {"data", "types", "models", "attacks", "losses", "build"}


def violations(files: dict[str, str]) -> list[str]:
    """What breaks the import rules in {module: source}; a package's `__init__` is named as the package."""
    found = []
    for module, source in files.items():
        room = module.split(".")[1] if "." in module else ""
        package = module if module in PACKAGES else module.rpartition(".")[0]
        imported = imported_parts(source, package) - {room}
        allowed = MAY_IMPORT.get(room, tuple(MAY_IMPORT))
        if imported & set(DOORS) and module != "clead_jax":
            found.append(f"{module} imports the door {', '.join(sorted(imported & set(DOORS)))}")
        if wrong := imported - set(allowed) - set(DOORS):
            found.append(f"{module} imports {', '.join(sorted(wrong))}")
    return found


PACKAGES = {module for module, path in FILES.items() if path.name == "__init__.py"}


def test_every_package_imports_only_what_it_may():
    assert violations({module: path.read_text() for module, path in FILES.items()}) == []


@pytest.mark.parametrize(
    ("module", "planted", "found"),
    [
        ("clead_jax.core.types", "from clead_jax import attacks", "imports attacks"),
        ("clead_jax.attacks.pgd", "import clead_jax.evaluation.runner", "imports evaluation"),
        ("clead_jax.evaluation.runner", "def f():\n    from ..config import schema", "imports config"),
        ("clead_jax.training.loop", "from clead_jax.losses import supcon", "imports losses"),
        ("clead_jax.interop.weights", "from clead_jax.models import Network", "imports models"),
        ("clead_jax.reporting.page", "from clead_jax.experiment.context import Run", "imports experiment"),
        ("clead_jax.experiment.train", "from clead_jax import main", "imports the door main"),
        ("clead_jax.sweep", "from clead_jax.compare import read", "imports the door compare"),
    ],
)
def test_a_planted_import_is_found(module, planted, found):
    assert violations({module: planted}) == [f"{module} {found}"]


def test_the_top_level_holds_doors_and_packages_and_nothing_else():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert modules == set(DOORS)
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"} == set(MAY_IMPORT)


def test_at_most_six_floors_and_no_circle():
    """Doors above, core below; the floor of a package is one above the highest that it imports."""
    rooms: dict[str, set[str]] = {}
    for module in FILES:
        if "." in module and module.split(".")[1] in MAY_IMPORT:
            room = module.split(".")[1]
            rooms.setdefault(room, set()).update(parts_of(module) - {room})
    floors: dict[str, int] = {}
    for room in graphlib.TopologicalSorter(rooms).static_order():  # raises CycleError, naming the circle
        floors[room] = 1 + max((floors[below] for below in rooms[room]), default=0)
    assert max(floors.values()) + 1 <= 6, floors


def test_only_these_modules_read_the_config():
    """Below the doors others may hand a config on; none takes a field of it."""
    mentions = {
        module
        for module, path in FILES.items()
        if module.startswith("clead_jax.experiment.") and re.search(r"\bcfg[.[]", path.read_text())
    }
    assert {module.split(".")[-1] for module in mentions} <= set(READ_THE_CONFIG)


def test_what_is_imported_is_declared():
    """In pyproject.toml, as a dependency or in an extra: what others happen to bring may be gone tomorrow."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    words = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {re.split(r"[^\w.-]", word)[0].lower() for word in words}
    outside = {name for path in FILES.values() for name in foreign_imports(path.read_text())}
    brought_by = importlib.metadata.packages_distributions()
    canonical = lambda name: {found.lower().replace("_", "-") for found in brought_by.get(name, [name])}
    undeclared = {name for name in outside if not declared & canonical(name)}
    assert {"jax", "numpy", "sklearn"} <= outside and not undeclared


def foreign_imports(source: str) -> set[str]:
    """Top-level names of the modules that `source` imports anywhere, less the standard library's and ours."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"clead_jax"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_preset_imports_only_the_base_config(path):
    assert imported_parts(path.read_text(), "") <= {"config"}


@pytest.mark.parametrize("module", ["clead_jax", *(f"clead_jax.{room}" for room in WITHOUT_JAX)])
def test_starts_without_jax(module):
    inside = [m for m in FILES if m == module or (module != "clead_jax" and m.startswith(f"{module}."))]
    assert "jax" not in loaded_after("import " + ", ".join(inside))


def test_models_from_elsewhere_load_torch_on_first_use_only():
    assert not {"torch", "safetensors"} & loaded_after("import clead_jax.interop, clead_jax.interop.layers")


@pytest.mark.parametrize("door", ["main", "evaluate", "report", "compare", "sweep", "benchmark", "export", "methods"])
def test_a_door_does_not_wait_for_jax(door):
    assert "jax" not in loaded_after(f"import clead_jax.{door}")


def test_presets_start_without_jax():
    code = "import runpy\n" + "\n".join(f"runpy.run_path({str(path)!r})['get_config']()" for path in CONFIGS)
    assert "jax" not in loaded_after(code)


def test_front_doors_share_a_process_and_none_imports_tensorflow():
    doors = [f"clead_jax.{door}" for door in DOORS]
    # A stand-in, so that a mere attempt shows up where TensorFlow is not installed.
    stand_in = "import importlib.abc, sys\nclass Finder(importlib.abc.MetaPathFinder):\n" + (
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.split('.')[0] != 'tensorflow', 'something imports TensorFlow'\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    loaded_after(stand_in + "\n".join(f"import {door}" for door in doors))


@pytest.mark.parametrize("module", FILES)
def test_modules_are_documented_and_short(module):
    source = FILES[module].read_text()
    tree = ast.parse(source)
    assert ast.get_docstring(tree), "no docstring"
    assert source.count("\n") <= 300, "too long, split it"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.body[0].lineno + 1 - (ast.get_docstring(node) or "").count("\n")
            assert lines <= 60, f"{node.name} has {lines} lines besides its docstring"


WORDS = re.compile(
    r"\b(doubt\w*|standing|climb\w*|arsenal|ledger|luck|nobody|somebody|no finite number)\b|paper's protocol", re.I
)


@pytest.mark.parametrize("path", [*FILES.values(), *sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"], ids=str)
def test_words_are_the_fields(path):
    """Names and sentences use the terms a reader of this field knows (robust, sanity check, maximise, ...)."""
    assert sorted({word[0] for word in WORDS.finditer(path.read_text())}) == []
