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
VOCABULARY = ("types", "registry", "values", "statistics", "jsonl")
ROOMS = ("attacks", "losses", "models", "data", "training", "evaluation", "reporting")
FRONT_DOORS = ("main", "evaluate", "report", "benchmark", "against_torch", "compare", "sweep")
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


@pytest.mark.parametrize("module", [m for m in FILES if m.split(".")[1:2] and m.split(".")[1] in ROOMS])
def test_a_room_imports_only_the_vocabulary_and_itself(module):
    assert parts_of(module) <= {*VOCABULARY, module.split(".")[1]}


@pytest.mark.parametrize("module", VOCABULARY)
def test_the_vocabulary_imports_nothing_of_ours(module):
    assert not parts_of(f"clead_jax.{module}")


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


def test_only_build_reaches_into_the_rooms_of_named_parts():
    """Everyone else gets attacks, losses and models as arguments, whatever the config named."""
    named = {"attacks", "losses", "models"}
    builders = {"clead_jax.build", "clead_jax.arsenal", "clead_jax.criteria"}
    assert {m for m in FILES if parts_of(m) & named and m.split(".")[1] not in named} <= builders


def test_imports_run_one_way():
    arrows: dict[str, set[str]] = {}
    for module in FILES:
        part = module.partition(".")[2].split(".")[0]
        arrows.setdefault(part, set()).update(parts_of(module) - {part})
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError, naming the circle


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_preset_imports_only_the_base_config(path):
    assert imported_parts(path.read_text(), "") <= {"config"}


@pytest.mark.parametrize(
    "module",
    [
        m
        for m in ("clead_jax", "clead_jax.config", "clead_jax.report", "clead_jax.compare", "clead_jax.sweep")
        if m in FILES
    ],
)
def test_starts_without_jax(module):
    assert "jax" not in loaded_after(f"import {module}")


def test_presets_start_without_jax():
    code = "import runpy\n" + "\n".join(f"runpy.run_path({str(path)!r})['get_config']()" for path in CONFIGS)
    assert "jax" not in loaded_after(code)


def test_front_doors_share_a_process_and_none_imports_tensorflow():
    doors = [f"clead_jax.{door}" for door in FRONT_DOORS if f"clead_jax.{door}" in FILES]
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
    assert ast.get_docstring(ast.parse(source)), "no docstring"
    assert source.count("\n") <= 300, "too long, split it"
