"""ONNX files, from the jaxpr of a model: one entry of `ONNX` for each of jax's primitives.

    ONNX["cbrt"] = lambda graph, equation, x: graph.node("Pow", x, graph.constant(np.float32(1 / 3)))

An entry takes the names of the inputs and returns the name of the output; nodes are ONNX's, opset 18. Convolutions and
pooling want channels first there: a Transpose before and one after each, which onnxruntime moves out of the way.
"""

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend.core import Jaxpr, Literal

from clead_jax.core.registry import EXPORTERS
from clead_jax.interop.formats import Artefact, Exportable
from clead_jax.interop.outside import first_line, import_or_say, some

OPSET, IR = 18, 10  # of 2022 and 2024: read by onnxruntime from 1.18 on
Entry = Callable[..., str]


class Graph:
    """The nodes and constants of a file, and their names."""

    def __init__(self) -> None:
        self.onnx = import_or_say("onnx", "onnx")
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node; the name of its output."""
        name = f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [name], **attributes))
        return name

    def constant(self, value: Any) -> str:
        """Adds a constant; its name."""
        name = f"constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def shape(self, sizes: Sequence[Any]) -> str:
        """A constant shape, in which a symbolic size is left to be found."""
        return self.constant(np.array([s if isinstance(s, int) else -1 for s in sizes], np.int64))

    def transposed(self, x: str, axes: Sequence[int]) -> str:
        """x with its axes in another order."""
        if x in self.constants:
            return self.constant(np.transpose(self.constants[x], axes))
        return self.node("Transpose", x, perm=[*axes])

    def type_of(self, dtype: Any) -> int:
        """ONNX's number for a type."""
        return self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


SAME = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "max": "Max", "min": "Min", "pow": "Pow", "neg": "Neg", "abs": "Abs"},
    **{"exp": "Exp", "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf", "sqrt": "Sqrt", "sign": "Sign"},
    **{"floor": "Floor", "ceil": "Ceil", "sin": "Sin", "cos": "Cos", "stop_gradient": "Identity", "copy": "Identity"},
    **{"eq": "Equal", "lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "div": "Div"},
    **{"and": "And", "or": "Or", "not": "Not"},
}
ONNX: dict[str, Entry] = {name: lambda g, e, *x, kind=kind: g.node(kind, *x) for name, kind in SAME.items()}
ONNX |= {
    "ne": lambda g, e, *x: g.node("Not", g.node("Equal", *x)),
    "rsqrt": lambda g, e, x: g.node("Reciprocal", g.node("Sqrt", x)),
    "square": lambda g, e, x: g.node("Mul", x, x),
    "integer_pow": lambda g, e, x: g.node("Pow", x, g.constant(np.float32(e.params["y"]))),
    "log1p": lambda g, e, x: g.node("Log", g.node("Add", x, g.constant(np.float32(1)))),
    "expm1": lambda g, e, x: g.node("Sub", g.node("Exp", x), g.constant(np.float32(1))),
    "clamp": lambda g, e, low, x, high: g.node("Min", g.node("Max", x, low), high),
    "select_n": lambda g, e, which, no, yes: g.node("Where", which, yes, no),
    "convert_element_type": lambda g, e, x: g.node("Cast", x, to=g.type_of(e.params["new_dtype"])),
    "reshape": lambda g, e, x: g.node("Reshape", x, g.shape(e.outvars[0].aval.shape)),
    "squeeze": lambda g, e, x: g.node("Reshape", x, g.shape(e.outvars[0].aval.shape)),
    "transpose": lambda g, e, x: g.transposed(x, e.params["permutation"]),
    "concatenate": lambda g, e, *x: g.node("Concat", *x, axis=e.params["dimension"]),
    "reduce_sum": lambda g, e, x: _reduced(g, e, x, "ReduceSum"),
    "reduce_max": lambda g, e, x: _reduced(g, e, x, "ReduceMax"),
    "reduce_min": lambda g, e, x: _reduced(g, e, x, "ReduceMin"),
}


def entry(name: str) -> Callable[[Entry], Entry]:
    """Decorator that enters a function under the name of a primitive."""

    def enter(function: Entry) -> Entry:
        ONNX[name] = function
        return function

    return enter


def _reduced(graph: Graph, equation: Any, x: str, kind: str) -> str:
    return graph.node(kind, x, graph.constant(np.array(equation.params["axes"], np.int64)), keepdims=0)


@entry("broadcast_in_dim")
def _broadcast(graph: Graph, equation: Any, x: str) -> str:
    """The axes put in place; ONNX broadcasts the rest where it is used, so a symbolic size need not be known."""
    old, new, axes = equation.invars[0].aval.shape, equation.params["shape"], equation.params["broadcast_dimensions"]
    sizes = [1] * len(new)
    for size, axis in zip(old, axes, strict=True):
        sizes[axis] = size
    x = graph.node("Reshape", x, graph.shape(sizes))
    known = [size if isinstance(size, int) else 1 for size in new]
    return graph.node("Expand", x, graph.constant(np.array(known, np.int64)))


@entry("conv_general_dilated")
def _convolution(graph: Graph, equation: Any, x: str, kernel: str) -> str:
    own, numbers = equation.params, equation.params["dimension_numbers"]
    if own["batch_group_count"] != 1 or set(own["lhs_dilation"]) != {1}:
        raise ValueError("a transposed convolution, or one with batch groups, has no ONNX form here")
    y = graph.node(
        "Conv",
        graph.transposed(x, numbers.lhs_spec),
        graph.transposed(kernel, numbers.rhs_spec),
        strides=own["window_strides"],
        pads=[low for low, _ in own["padding"]] + [high for _, high in own["padding"]],
        dilations=own["rhs_dilation"],
        group=own["feature_group_count"],
    )
    return graph.transposed(y, [*map(int, np.argsort(numbers.out_spec))])


@entry("reduce_window_max")
def _max_pool(graph: Graph, equation: Any, x: str) -> str:
    """Of images [B, H, W, C]."""
    own = {
        name: equation.params[name] for name in ("window_dimensions", "window_strides", "padding", "window_dilation")
    }
    outer = [(value[0], value[-1]) for value in own.values()]
    if len(own["padding"]) != 4 or outer != [(1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1)]:
        raise ValueError("a maximum over windows of other than two axes of pixels has no ONNX form here")
    window, strides, padding, dilations = ([*value[1:3]] for value in own.values())
    pads = [low for low, _ in padding] + [high for _, high in padding]
    settings = {"kernel_shape": window, "strides": strides, "pads": pads, "dilations": dilations}
    y = graph.node("MaxPool", graph.transposed(x, (0, 3, 1, 2)), **settings)
    return graph.transposed(y, (0, 2, 3, 1))


@entry("dot_general")
def _product(graph: Graph, equation: Any, x: str, y: str) -> str:
    """A dense layer as MatMul, any other product as Einsum."""
    (of_x, of_y), (batch_x, batch_y) = equation.params["dimension_numbers"]
    left, right = (len(v.aval.shape) for v in equation.invars)
    if not batch_x and right == 2 and (of_x, of_y) == ((left - 1,), (0,)):
        return graph.node("MatMul", x, y)
    letters = [chr(97 + n) for n in range(left + right)]
    for mine, its in (*zip(of_x, of_y, strict=True), *zip(batch_x, batch_y, strict=True)):
        letters[left + its] = letters[mine]
    a, b, shared = letters[:left], letters[left:], [letters[axis] for axis in batch_x]
    summed = {letters[axis] for axis in of_x} | {*shared}
    out = shared + [each for each in (*a, *b) if each not in summed]
    return graph.node("Einsum", x, y, equation=f"{''.join(a)},{''.join(b)}->{''.join(out)}")


@entry("argmax")
def _argmax(graph: Graph, equation: Any, x: str) -> str:
    (axis,) = equation.params["axes"]
    found = graph.node("ArgMax", x, axis=axis, keepdims=0)
    return graph.node("Cast", found, to=graph.type_of(equation.params["index_dtype"]))


def _inner(equation: Any) -> tuple[Jaxpr, Sequence[Any]] | None:
    """The jaxpr that an equation does nothing but call, and its constants."""
    found = [value for value in equation.params.values() if hasattr(value, "eqns")]
    if len(found) != 1 or equation.primitive.name in ("scan", "while", "cond"):
        return None
    return getattr(found[0], "jaxpr", found[0]), getattr(found[0], "consts", ())


def _walk(graph: Graph, jaxpr: Jaxpr, names: dict[Any, str]) -> list[str]:
    """Adds the nodes of a jaxpr, whose inputs and constants are named; the names of its outputs."""
    constant = lambda v: graph.constant(np.asarray(v.val, v.aval.dtype))
    read = lambda v: constant(v) if isinstance(v, Literal) else names[v]
    equation: Any
    for equation in jaxpr.eqns:
        inputs = [read(v) for v in equation.invars]
        if inner := _inner(equation):
            body, consts = inner
            inputs = [*map(graph.constant, consts), *inputs]
            outputs = _walk(graph, body, dict(zip((*body.constvars, *body.invars), inputs, strict=True)))
        else:
            outputs = [ONNX[equation.primitive.name](graph, equation, *inputs)]
        names.update(zip(equation.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _unknown(jaxpr: Jaxpr) -> set[str]:
    """The primitives of a jaxpr that have no entry."""
    found: set[str] = set()
    for equation in jaxpr.eqns:
        inner = _inner(equation)
        found |= _unknown(inner[0]) if inner else {equation.primitive.name} - ONNX.keys()
    return found


def session(content: bytes) -> Callable[[np.ndarray], np.ndarray]:
    """The model of an ONNX file, run by onnxruntime on the CPU: pixels -> logits. Raises ValueError if it cannot."""
    try:
        opened = import_or_say("onnxruntime", "onnx").InferenceSession(content, providers=["CPUExecutionProvider"])
    except ImportError:
        raise
    except Exception as error:  # onnxruntime has a class for each reason
        raise ValueError(f"onnxruntime cannot run the model ({first_line(error)})") from error
    return lambda x: opened.run(None, {"pixels": x})[0]


def _load(path: Path, model: Exportable) -> Artefact:
    facts = {"opset": OPSET, "onnxruntime": importlib.metadata.version("onnxruntime")}
    return Artefact(session(path.read_bytes()), facts=facts)


@EXPORTERS.register("onnx", suffix="onnx", load=_load)
def onnx(model: Exportable) -> bytes:
    """An ONNX file: "pixels" [batch, H, W, C] in, "logits" [batch, K] out."""
    graph, pixels = Graph(), model.pixels
    import_or_say("onnxruntime", "onnx")
    helper = graph.onnx.helper
    closed = jax.make_jaxpr(model.forward)(pixels)
    if missing := sorted(_unknown(closed.jaxpr)):
        example = f"clead_jax.interop.ONNX[{missing[0]!r}] = function"
        raise ValueError(f"the model uses what has no ONNX form here: {some(missing)}; enter one with {example}")
    named = dict(zip(closed.jaxpr.constvars, map(graph.constant, closed.consts), strict=True))
    (out,) = _walk(graph, closed.jaxpr, named | {closed.jaxpr.invars[0]: "pixels"})
    graph.nodes.append(helper.make_node("Identity", [out], ["logits"]))
    shaped = lambda name, shape: helper.make_tensor_value_info(
        name, graph.type_of(np.float32), [s if isinstance(s, int) else "batch" for s in shape]
    )
    inputs, outputs = [shaped("pixels", pixels.shape)], [shaped("logits", closed.out_avals[0].shape)]
    used = {name for node in graph.nodes for name in node.input}
    constants = [graph.onnx.numpy_helper.from_array(v, name) for name, v in graph.constants.items() if name in used]
    whole = helper.make_graph(graph.nodes, "model", inputs, outputs, constants)
    made = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    made.producer_name = "clead_jax"
    return made.SerializeToString()
