"""Tests that need a GPU beside the CPU: they skip without one, and say so."""

import jax
import pytest


@pytest.fixture(scope="session")
def gpu():
    """The first GPU, or a skip."""
    try:
        return jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip(f"no GPU: jax sees {jax.default_backend()} only (JAX_PLATFORMS=cuda,cpu shows it both)")


@pytest.fixture(scope="session")
def cpu(gpu):
    """The CPU of the same machine."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        pytest.skip("jax does not show the CPU; JAX_PLATFORMS=cuda,cpu does")
