"""Eight fake CPU devices for every test, and a compilation cache that outlives the run."""

import gc
import importlib.metadata
import os
import pathlib
import signal
import sys
import tempfile

# Most programs here run once: these flags compile them three times as fast, each on one thread.
os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true --xla_cpu_parallel_codegen_split_count=1",
        "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib") < "0.12" else "",  # gone there
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("CLEAD_JAX_CACHE", os.path.join(tempfile.gettempdir(), "clead_jax_test_data"))

import jax
import pytest

# Traces are many small objects that live: looking for cycles among them took a fifth of the time.
gc.set_threshold(100_000, 20, 20)
jax.config.update("jax_compilation_cache_dir", os.path.join(tempfile.gettempdir(), "clead_jax_test_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # in a shell's background job, under nohup: tests would inherit it
        signal.signal(number, default)

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / room) for room in ("evaluation", "core")]  # helpers that several test files share
SHARED = ROOT.parent / "shared"  # optional: real CIFAR and reference results; tests that need it skip without it


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder with real data and reference results, or a skip that says it is absent."""
    if not SHARED.exists():
        pytest.skip(f"no reference data at {SHARED}")
    return SHARED


@pytest.fixture(scope="module", autouse=True)
def programs_of_this_file():
    """Compiled programs are dropped after each file: a process can map only so many pieces of memory (65,530)."""
    yield
    jax.clear_caches()


@pytest.fixture
def quick_projection(monkeypatch):
    """Two of the dimensions in place of t-SNE, which takes most of a report's time."""
    from clead_jax.reporting import pictures

    monkeypatch.setattr(pictures, "_project", lambda features: features[:, :2])


@pytest.fixture
def fast_pictures(quick_projection, monkeypatch):
    """Pictures of few pixels too."""
    from clead_jax.reporting import style

    monkeypatch.setattr(style, "DPI", 20)


@pytest.fixture(autouse=True)
def shown_on_stdout():
    """What the package logs is printed, as under the doors."""
    from clead_jax.core import progress

    progress.show(0)
