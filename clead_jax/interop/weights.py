"""Weights from files: .safetensors, PyTorch's .pt and .pth, and the .npy files of DeepMind's Haiku models.

    load_weights(module, "model.safetensors")               # onto a torch module, which comes back
    load_weights(module, "Gowal2020Uncovering.pt")          # RobustBench's checkpoints
    load_weights(module, "cifar10_linf_wrn28-10_with.npy")  # DeepMind's, onto a module of the same layout
    variables = load_weights(variables, "model.safetensors")   # onto a tree of arrays (Flax, Haiku)
    params, state = read_haiku("cifar10_linf_wrn28-10_with.npy")

No file can run code: .pt is read with weights_only=True, .npy with an unpickler that knows numpy arrays and mappings.
"""

import importlib
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.interop.outside import first_line, import_or_say, some, to_numpy

Tensors = dict[str, np.ndarray]
MAPPINGS = ("haiku._src.data_structures.FlatMapping", "collections.OrderedDict")
ARRAYS = (
    *("numpy.ndarray", "numpy.dtype", "numpy._core.multiarray._reconstruct", "numpy._core.multiarray.scalar"),
    *("numpy._core.numeric._frombuffer", "_codecs.encode"),
)


def load_weights(
    onto: Any,
    path: str | Path,
    key: str = "",
    rename: Callable[[str], str | None] = lambda name: name,
    keep: Sequence[str] = (),
) -> Any:
    """Loads all tensors of a file onto a torch module (changed, and returned) or a tree of arrays (a new one returned).

    Args:
      onto: a torch.nn.Module, or a tree of arrays whose names are its keys joined by dots: params.head.kernel.
      path: a .safetensors, .pt, .pth, .ckpt, .npz or .npy file.
      key: of the state dict in a file that holds several; "" means "state_dict" if it is there, or the only one.
      rename: name in the file -> name in the model, or None for a tensor to leave out.
      keep: names in the model that stay as they are where the file lacks them: a normalisation's mean, for example.

    First parts that all names of the file have before the model's ("module.", "model.") go by themselves. Raises
    ValueError, one line, for a file that cannot be read, and with their names for tensors that are unmatched, missing
    or of another shape. Only num_batches_tracked, a counter without influence, may be missing or left over.
    """
    tensors = {new: tensor for name, tensor in read_weights(path, key).items() if (new := rename(name)) is not None}
    if not hasattr(onto, "state_dict"):
        wanted, treedef = by_name(onto), jax.tree.structure(onto)
        tensors = _fitted(tensors, wanted, keep, path)
        fitted = [jnp.array(tensors.get(name, leaf), leaf.dtype) for name, leaf in wanted.items()]
        return jax.tree.unflatten(treedef, fitted)
    torch = import_or_say("torch")
    tensors = _fitted(tensors, onto.state_dict(), keep, path)
    onto.load_state_dict({name: torch.as_tensor(tensor) for name, tensor in tensors.items()}, strict=False)
    return onto


def by_name(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their names, its keys joined by dots, in the tree's order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(at, simple=True, separator="."): leaf for at, leaf in leaves}


def read_weights(path: str | Path, key: str = "") -> Tensors:
    """Tensors by name. Those of DeepMind's .npy files get the names and the order of axes of its PyTorch twin.

    Raises ValueError, one line, for another kind of file, and for one that is damaged or would run code.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".npy": lambda p, _: torch_names(*read_haiku(p))}
    readers |= dict.fromkeys((".pt", ".pth", ".ckpt"), _read_pt)
    if path.suffix not in readers:
        raise ValueError(f"{path}: unknown kind of file; weights are read from {', '.join(readers)}")
    return _read(path, lambda: readers[path.suffix](path, key))


def read_haiku(path: str | Path) -> tuple[dict, dict]:
    """(params, state) of a .npy file as DeepMind's adversarial_robustness saves them, for a Haiku model's `apply`."""
    return _read(Path(path), lambda: _read_npy(Path(path)))


def _read(path: Path, read: Callable[[], Any]) -> Any:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        return read()
    except ImportError:
        raise
    except _Wrong as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:  # each library has errors of its own for a damaged file
        raise ValueError(f"{path} cannot be read as {path.suffix[1:]}: {first_line(error)}") from error


class _Wrong(Exception):
    """What is wrong with a file, in words."""


def _read_safetensors(path: Path, key: str) -> Tensors:
    return import_or_say("safetensors.numpy", "safetensors").load_file(path)


def _read_npz(path: Path, key: str) -> Tensors:
    with np.load(path) as file:
        return dict(file)


def _read_pt(path: Path, key: str) -> Tensors:
    torch = import_or_say("torch")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        how = "save the state dict alone: torch.save(model.state_dict(), path)"
        raise _Wrong(f"not readable with weights_only=True ({first_line(error)}); {how}") from error
    is_tensor = lambda value: isinstance(value, torch.Tensor)
    inside = lambda value: isinstance(value, Mapping) and any(map(is_tensor, value.values()))
    if not isinstance(loaded, Mapping):
        raise _Wrong(f"holds a {type(loaded).__name__}, not a state dict")
    if key or not inside(loaded):
        dicts = [name for name, value in loaded.items() if inside(value)]
        key = key or ("state_dict" if "state_dict" in dicts else dicts[0] if len(dicts) == 1 else "")
        if key not in dicts:
            raise _Wrong(f"has no state dict {key!r}; key= can be {some(dicts) or 'nothing: it holds none'}")
        loaded = loaded[key]
    if other := [str(name) for name, value in loaded.items() if not is_tensor(value)]:
        raise _Wrong(f"holds more than tensors: {', '.join(other)}")
    return {name: to_numpy(tensor) for name, tensor in loaded.items()}


class _ArraysOnly(pickle.Unpickler):
    """Makes numpy arrays and mappings, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle may call."""
        module = module.replace("numpy.core.", "numpy._core.")  # as it was called before numpy 2
        if f"{module}.{name}" in MAPPINGS:
            return dict
        if f"{module}.{name}" not in ARRAYS:
            raise _Wrong(f"holds {module}.{name}, and only arrays are read")
        return getattr(importlib.import_module(module), name)


def _read_npy(path: Path) -> tuple[dict, dict]:
    with path.open("rb") as file:
        if not _header(file).hasobject:
            raise _Wrong("holds one array; (params, state) of a Haiku model is needed")
        loaded = _ArraysOnly(file).load()
    pair = loaded.tolist() if isinstance(loaded, np.ndarray) else loaded
    if not isinstance(pair, list | tuple) or [type(part) for part in pair] != [dict, dict]:
        raise _Wrong("does not hold the pair (params, state) of a Haiku model")
    return pair[0], pair[1]


def _header(file: BinaryIO) -> np.dtype:
    major, _ = np.lib.format.read_magic(file)
    return (np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0)(file)[2]


def torch_names(params: Mapping, state: Mapping) -> Tensors:
    """Haiku's parameters and averages under the names of DeepMind's PyTorch models, axes in torch's order.

    wide_res_net/~/resnet_lay_0_block_1/~/conv_0 is layer.0.block.1.conv_0; kernels [H, W, C, O] become [O, C, H, W].
    """
    names = {"w": "weight", "scale": "weight", "b": "bias", "offset": "bias"}
    averages = {"mean_ema": "running_mean", "var_ema": "running_var"}
    tensors = {}
    for module, values in (*params.items(), *state.items()):
        parts = [part for part in module.split("/") if part != "~"][1:]
        running = averages.get(parts[-1]) if parts else None
        layer = re.sub(
            r"resnet_lay_(\d+)_block_(\d+)", r"layer.\1.block.\2", ".".join(parts[:-1] if running else parts)
        )
        for name, value in {"average": values["average"]}.items() if running else values.items():
            axes = (3, 2, 0, 1) if np.ndim(value) == 4 else None  # None: reversed
            value = np.transpose(value, axes) if name == "w" else np.reshape(value, -1)
            tensors[f"{layer}.{running or names.get(name, name)}"] = value
    return tensors


def _fitted(tensors: Tensors, wanted: Mapping[str, Any], keep: Sequence[str], path: str | Path) -> Tensors:
    """The tensors by the names that are wanted, or ValueError with the names of all that do not fit."""
    counters = lambda names: {name for name in names if name.rpartition(".")[2] == "num_batches_tracked"}
    while tensors and not wanted.keys() & tensors.keys() and (first := _common_first_part(tensors)):
        tensors = {name.removeprefix(first): tensor for name, tensor in tensors.items()}
    missing = sorted(wanted.keys() - tensors.keys() - counters(wanted) - {*keep})
    unmatched = sorted(tensors.keys() - wanted.keys() - counters(tensors))
    both = [name for name in wanted if name in tensors]
    shapes = [(name, tuple(tensors[name].shape), tuple(wanted[name].shape)) for name in both]
    odd = [f"{name} {list(found)} instead of {list(right)}" for name, found, right in shapes if found != right]
    lists = {"missing": missing, "not in the model": unmatched, "of another shape": odd}
    if problems := [f"{what}: {', '.join(names)}" for what, names in lists.items() if names]:
        raise ValueError(f"{path} does not fit the model; {'; '.join(problems)}")
    return {name: tensors[name] for name in both}


def _common_first_part(names: Iterable[str]) -> str:
    """What all names have up to their first dot, with the dot; "" if they differ, or one has no dot."""
    parts = {name.partition(".")[0] if "." in name else "" for name in names}
    return f"{first}." if len(parts) == 1 and (first := parts.pop()) else ""
