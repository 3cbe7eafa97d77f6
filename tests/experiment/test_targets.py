"""The cards that programs can be compiled for: by name, with their memory, and what is said without jax's plugin."""

import importlib.util

import pytest

from clead_jax.experiment import targets

with_plugin = pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda12_plugin") and not importlib.util.find_spec("jax_cuda13_plugin"),
    reason="jax's CUDA plugin is not installed (the extra cuda12)",
)
MEMORY = {"a100-40gb": 42_331_013_120, "a100-80gb": 80e9, "h100": 84_942_979_072, "h200": 141e9}


def test_cards_and_what_jax_takes_of_their_memory(monkeypatch):
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    assert targets.names() == sorted(MEMORY)
    for name, memory in MEMORY.items():
        card = targets.card(name)
        assert card.memory == memory and card.usable == int(0.75 * memory)
        assert card.description.startswith("NVIDIA ") and card.description[7:11].lower() == name[:4]
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".9")
    assert targets.card("h200").usable == int(0.9 * 141e9)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "9")
    with pytest.raises(ValueError, match="MEM_FRACTION is '9'"):
        targets.card("h200").record  # noqa: B018


def test_an_unknown_card_names_those_that_are_known():
    with pytest.raises(
        ValueError, match="no GPU 'a101' is known to compile for; known: a100-40gb, a100-80gb, h100, h200"
    ):
        targets.card("a101")


def test_without_the_plugin_one_line_names_the_extra(monkeypatch):
    def missing(**given):
        raise NotImplementedError("topology not implemented for cuda\nmore")

    monkeypatch.setattr(targets.topologies, "get_topology_desc", missing)
    with pytest.raises(ValueError, match=r"^cannot compile for h100: [^\n]*clead-jax\[cuda12\]\"[^\n]*$"):
        targets.mesh(targets.card("h100"), 1)


@with_plugin
@pytest.mark.parametrize("name", targets.names())
def test_devices_of_a_card_that_is_not_there(name):
    mesh = targets.mesh(targets.card(name), 4)
    assert mesh.size == 4 and mesh.devices.flat[0].platform != "cpu"
