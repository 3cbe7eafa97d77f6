"""What other libraries need: an import that says what to install, errors in one line, their tensors as arrays."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def import_or_say(module: str, extra: str = "torch") -> Any:
    """The module. Raises ImportError that says what to type where it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{package} is not installed: pip install 'clead-jax[{extra}]'") from error


def some(names: Sequence[str], most: int = 8) -> str:
    """The names with commas, or the first of them and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"[:300]


def to_numpy(tensor: Any) -> np.ndarray:
    """A copy of a torch tensor; bfloat16, which numpy has not, as float32."""
    tensor = tensor.detach().cpu()
    return np.array((tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy())
