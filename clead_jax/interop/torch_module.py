"""A PyTorch module as a `Classifier`: exported once as a graph of ATen operators, then run by JAX alone.

classifier = clead_jax.from_torch(module.eval(), (32, 32, 3))
result = clead_jax.audit(classifier, images, labels, eps="8/255")
"""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.core.types import Array, Classifier, PyTree
from clead_jax.interop import layers  # noqa: F401  importing it enters its operators
from clead_jax.interop.aten import ATEN
from clead_jax.interop.outside import first_line, import_or_say, some, to_numpy

LOGITS_TOLERANCE, GRADIENT_TOLERANCE = 1e-3, 0.1  # a relu on the other side of 0 by rounding moves gradients by 1e-2
NO_MEANING = ("device", "layout", "pin_memory", "memory_format", "non_blocking")


class Ref(NamedTuple):
    """The result of an earlier step."""

    name: str


class Graph(NamedTuple):
    """A program for one image: its inputs by name, then (name, function, args, kwargs) where arguments hold `Ref`s."""

    image: str
    variables: dict[str, str]  # input -> name in the module
    steps: list[tuple[str, Callable[..., Any], Any, Any]]
    output: str

    def run(self, variables: PyTree, image: Array) -> Array:
        """Output of an image [1, C, H, W]."""
        values = {self.image: image} | {name: variables[of] for name, of in self.variables.items()}
        result = lambda argument: values[argument.name] if isinstance(argument, Ref) else argument
        for name, function, *arguments in self.steps:
            args, kwargs = jax.tree.map(result, arguments, is_leaf=lambda argument: isinstance(argument, Ref))
            values[name] = function(*args, **kwargs)
        return values[self.output]


def from_torch(module: Any, image_shape: tuple[int, int, int], name: str = "", check: bool = True) -> Classifier:
    """A torch.nn.Module as a Classifier of images [B, H, W, C] in [0, 1]; it runs compiled, without torch.

    Args:
      module: in eval mode; takes images [B, C, H, W] in [0, 1], with its own normalisation, and gives logits [B, K], of
        each image by itself.
      image_shape: (H, W, C).
      name: of the Classifier; "" means the class of the module.
      check: whether logits and input gradients of both are compared, on two random images.

    The variables are a dict of the parameters and buffers by their names in the module. What a module writes itself as
    the backward pass of a torch.autograd.Function, and torch.no_grad, are not in the graph: attacks differentiate the
    forward pass. Where that makes a difference, `check` raises; `Tensor.detach` is kept.

    Raises ValueError, one line: not a module, train mode, a wrong shape, outputs that are no logits [B, K], an operator
    without a JAX form, results that differ. ImportError where torch is not installed.
    """
    images = _two_images(image_shape)
    torch = import_or_say("torch")
    if not isinstance(module, torch.nn.Module):
        raise ValueError(f"from_torch needs a torch.nn.Module, not {type(module).__name__}")
    if training := [part or type(module).__name__ for part, m in module.named_modules() if m.training]:
        raise ValueError(f"the module is in train mode ({some(training)}); call module.eval() first")
    name = name or type(module).__name__
    logits, gradient = _answer(module, images)
    graph, variables = _graph(module, images[:1], name)
    shape = tuple(image_shape)
    classify = lambda variables, image: graph.run(variables, image.transpose(2, 0, 1)[None]).reshape(-1)

    def forward(variables: PyTree, x: Array) -> Array:
        if x.shape[1:] != shape:
            raise ValueError(f"{name} takes images [B, {', '.join(map(str, shape))}], not {list(x.shape)}")
        return jax.vmap(classify, (None, 0))(variables, x)

    classifier = Classifier(jax.jit(forward), variables, logits.shape[1], shape, name=name)
    if check:
        _compare(classifier, images, logits, gradient)
    return classifier


def _two_images(image_shape: tuple[int, int, int]) -> np.ndarray:
    """Random images [2, H, W, C]."""
    sizes = tuple(image_shape)
    if len(sizes) != 3 or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(f"image_shape is (height, width, channels), for example (32, 32, 3), not {image_shape!r}")
    if sizes[0] in (1, 3) and sizes[2] not in (1, 3):
        raise ValueError(f"image_shape is (height, width, channels); write {(*sizes[1:], sizes[0])}, not {sizes}")
    return np.random.default_rng(0).random((2, *sizes), np.float32)


def _directions(logits: Any) -> np.ndarray:
    """What the logits [B, K] are weighted with, so that their sum has an input gradient to compare."""
    return np.random.default_rng(1).normal(size=tuple(logits.shape)).astype(np.float32)


def _answer(module: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Torch's logits [2, K] of two images, and the gradient [2, H, W, C] of their weighted sum."""
    torch = import_or_say("torch")
    x = _as_input(module, images).requires_grad_()
    try:
        with torch.enable_grad():
            logits = module(x)
    except Exception as error:
        wanted = "NCHW images in [0, 1]"
        raise ValueError(
            f"the module cannot be run on {wanted} of shape {list(x.shape)}: {first_line(error)}"
        ) from error
    if not isinstance(logits, torch.Tensor):
        found = type(logits).__name__
        raise ValueError(f"the module must give logits [B, K], not a {found}: wrap it in one that returns the logits")
    if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        raise ValueError(f"the module must give logits [B, K] with K >= 2; for 2 images it gives {list(logits.shape)}")
    gradient = torch.zeros_like(x)
    if logits.requires_grad:
        direction = torch.as_tensor(_directions(logits)).to(logits)
        found = torch.autograd.grad(logits, x, direction, allow_unused=True)[0]
        gradient = gradient if found is None else found
    return to_numpy(logits), to_numpy(gradient).transpose(0, 2, 3, 1)


def _as_input(module: Any, images: np.ndarray) -> Any:
    """Images [B, H, W, C] as a tensor [B, C, H, W] of the module's dtype, on its device."""
    torch = import_or_say("torch")
    like = next((p for p in (*module.parameters(), *module.buffers()) if p.is_floating_point()), torch.empty(0))
    return torch.as_tensor(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(like)


def _graph(module: Any, images: np.ndarray, name: str) -> tuple[Graph, dict[str, Array]]:
    """The graph for one image [1, H, W, C], and the variables that it uses."""
    torch = import_or_say("torch")
    try:
        program = torch.export.export(module, (_as_input(module, images),), strict=False)
        taken_apart = torch.export.default_decompositions()
        for op in [op for op in taken_apart if _function(op)]:  # what has a JAX form of its own stays whole
            taken_apart.pop(op)
        program = program.run_decompositions(taken_apart)
    except Exception as error:
        raise ValueError(f"torch.export cannot trace {name}: {first_line(error)}") from error
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    functions = {node.name: _function(node.target) for node in calls}
    if missing := sorted({str(node.target) for node in calls if functions[node.name] is None}):
        example = f"clead_jax.interop.ATEN[{_key(missing[0])!r}] = function"
        raise ValueError(f"{name} uses what has no JAX form here: {some(missing)}; enter one with {example}")
    steps = [(n.name, f, _plain(n.args), _plain(n.kwargs)) for n in calls if (f := functions[n.name])]
    used = {node.name for node in program.graph.nodes if node.op == "placeholder" and node.users}
    tensors = {**program.state_dict, **program.constants}
    inputs = {spec.arg.name: spec.target for spec in program.graph_signature.input_specs}
    image = next(name for name, target in inputs.items() if target is None)
    named = {name: target for name, target in inputs.items() if target is not None and name in used}
    variables = {target: _to_jax(tensors[target]) for target in named.values()}
    return Graph(image, named, steps, program.graph_signature.user_outputs[0]), variables


def _key(target: Any) -> str:
    """The name of an operator without its overload: add of aten.add.Tensor."""
    return str(target).removeprefix("aten.").rpartition(".")[0]


def _function(target: Any) -> Callable[..., Any] | None:
    if target is operator.getitem:
        return target
    return ATEN.get(str(target).removeprefix("aten."), ATEN.get(_key(target)))


def _plain(argument: Any) -> Any:
    """An argument of the graph without torch's types."""
    torch = import_or_say("torch")
    if isinstance(argument, torch.fx.Node):
        return Ref(argument.name)
    if isinstance(argument, list | tuple):
        return [_plain(item) for item in argument]
    if isinstance(argument, dict):
        return {key: _plain(item) for key, item in argument.items() if key not in NO_MEANING}
    return str(argument).removeprefix("torch.") if isinstance(argument, torch.dtype) else argument


def _to_jax(tensor: Any) -> Array:
    return jnp.array(to_numpy(tensor), str(tensor.dtype).removeprefix("torch."))


def _compare(classifier: Classifier, images: np.ndarray, logits: np.ndarray, gradient: np.ndarray) -> None:
    """Raises ValueError unless the classifier has these logits and input gradients, within a relative tolerance."""
    name, weights = classifier.name, _directions(logits)

    @jax.jit
    def answer(variables: PyTree, x: Array) -> tuple[Array, Array]:
        found, pull = jax.vjp(lambda x: classifier.forward(variables, x), x)
        return found, pull(jnp.asarray(weights, found.dtype).reshape(found.shape))[0]

    try:
        with jax.default_matmul_precision("highest"):
            found = answer(classifier.variables, jnp.asarray(images))
    except Exception as error:
        raise ValueError(f"{name}: JAX cannot run what was exported: {first_line(error)}") from error
    dtypes = {leaf.dtype for leaf in (found[0], *classifier.variables.values())}
    eps = max(float(jnp.finfo(dtype).eps) for dtype in dtypes if jnp.issubdtype(dtype, jnp.floating))
    size = float(np.linalg.norm(logits)) + 1e-12
    distance = lambda a, b: float(np.linalg.norm(np.asarray(a, float) - b))
    if not (off := distance(found[0], logits) / size) <= max(LOGITS_TOLERANCE, 10 * eps):  # NaN counts as different
        why = "does an image depend on the others of its batch, or does the module draw random numbers?"
        raise ValueError(f"{name}: logits differ from torch's by {off:.1e} of their size; {why}")
    off = distance(found[1], gradient) / (float(np.linalg.norm(gradient)) + 1e-3 * size)
    if not off <= max(GRADIENT_TOLERANCE, 30 * eps):
        why = "a custom backward pass or torch.no_grad is not kept; check=False takes that of the forward pass"
        raise ValueError(f"{name}: input gradients differ from torch's by {off:.1e} of their size; {why}")
