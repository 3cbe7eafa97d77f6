"""What an audit must not depend on, and what it must notice: JAX's settings, state behind the model, odd variables."""

import contextlib
import functools
import types
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from clead_jax.attacks.parse import attack_at
from clead_jax.audit import audit as whole_audit
from clead_jax.core.types import Classifier, Examples
from clead_jax.evaluation.classifier import compiled
from clead_jax.evaluation.runner import run_attacks

N, K, EPS = 40, 5, 0.05
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0.2, 0.8, (N, 4, 4, 1)).astype(np.float32)
W = RNG.normal(size=(16, K)).astype(np.float32)
LABELS = ((IMAGES.reshape(N, -1) - 0.5) @ W).argmax(-1)
ATTACKS = {
    "linf": "pgd(steps=2),square(queries=20),noise(points=3),apgd_ce(steps=5),fab_t(steps=5)",
    "l2": "noise(points=3),square(queries=20)",
    "l1": "pgd(steps=2),square(queries=20)",
}


def linear(v, x):
    return (x.reshape(len(x), -1) - 0.5) @ v


def audit(forward, **settings):
    defaults = {"images": IMAGES, "labels": LABELS, "eps": EPS, "attacks": "fgsm", "batch_size": 16, "checks": False}
    return whole_audit(forward, **defaults | settings)


# --- a compiled program depends on all that `forward` reads -----------------------------------------------------------


def of_an_object():
    class Trainer:
        sign = jnp.ones(K)

        def forward(self, v, x):
            return linear(v, x) * self.sign

    trainer = Trainer()
    return trainer.forward, lambda: setattr(trainer, "sign", -trainer.sign)


def of_a_closure():
    held = {"sign": np.ones(K, np.float32)}
    return lambda v, x: linear(v, x) * held["sign"], lambda: held.update(sign=-held["sign"])


def of_a_partial():
    sign = np.ones(K, np.float32)
    return functools.partial(lambda sign, v, x: linear(v, x) * sign, sign), lambda: np.negative(sign, out=sign)


def of_a_python_flag():
    switch = types.SimpleNamespace(on=False)
    return lambda v, x: -linear(v, x) if switch.on else linear(v, x), lambda: setattr(switch, "on", True)


def of_a_module():
    scale = nnx.BatchNorm(K, use_running_average=True, rngs=nnx.Rngs(0))
    change = lambda: scale.scale.set_value(-scale.scale[...])
    return lambda v, x: scale(linear(v, x)), change


def of_a_callback():
    held = types.SimpleNamespace(call=lambda z: z)
    shape = lambda x: jax.ShapeDtypeStruct((len(x), K), np.float32)
    change = lambda: setattr(held, "call", lambda z: -z)
    return lambda v, x: jax.pure_callback(held.call, shape(x), linear(v, x)), change


STATE = (of_an_object, of_a_closure, of_a_partial, of_a_python_flag, of_a_module, of_a_callback)


@pytest.mark.parametrize("state", STATE, ids=lambda state: state.__name__)
def test_what_forward_reads_may_have_changed(state):
    forward, change = state()
    for _ in range(2):
        right = (np.asarray(forward(W, IMAGES[:16])).argmax(-1) == LABELS[:16]).mean()
        found = audit(forward, images=IMAGES[:16], labels=LABELS[:16], variables=W, attacks="noise(points=1)")
        assert found.accuracy["clean"] == right
        change()
    assert right < 0.5


def test_constants_that_jax_hides_from_the_text_of_a_program_count():
    before = jax.config.jax_use_simplified_jaxpr_constants
    jax.config.update("jax_use_simplified_jaxpr_constants", True)
    try:
        closed = lambda w: Classifier(lambda v, x: linear(w, x) + 0 * v, np.zeros((), np.float32))
        assert audit(closed(W)).accuracy["clean"] == 1
        assert audit(closed(-W)).accuracy["clean"] < 0.5
    finally:
        jax.config.update("jax_use_simplified_jaxpr_constants", before)


def test_a_gradient_that_has_changed_is_noticed():
    held = types.SimpleNamespace(factor=0.0)
    straight = jax.custom_vjp(lambda x: x)
    straight.defvjp(lambda x: (x, None), lambda _, g: (held.factor * g,))
    forward = lambda v, x: linear(v, straight(x))
    masked = audit(forward, variables=W).accuracy["fgsm"]
    held.factor = 1.0
    assert audit(forward, variables=W).accuracy["fgsm"] < masked == 1


def test_programs_are_one_where_all_is_the_same_and_names_of_variables_count():
    one = lambda forward, v: compiled(Classifier(forward, v, image_shape=(4, 4, 1)), batch_size=16).programs
    first = one(linear, W)
    assert one(linear, -W) is first and one(lambda v, x: linear(2 * v, x), W) is not first
    assert one(lambda v, x: linear(v["a"], x), {"a": W}) is not one(lambda v, x: linear(v["b"], x), {"b": W})


# --- JAX's settings ---------------------------------------------------------------------------------------------------

FLAGS = {
    "rbg": ("jax_default_prng_impl", "rbg"),
    "unsafe_rbg": ("jax_default_prng_impl", "unsafe_rbg"),
    "x64": ("jax_enable_x64", True),
    "old threefry": ("jax_threefry_partitionable", False),
    "strict types": ("jax_numpy_dtype_promotion", "strict"),
    "strict ranks": ("jax_numpy_rank_promotion", "raise"),
}


OTHER_NORMS = [
    pytest.param("rbg", "l2", 0.3, marks=pytest.mark.slow),
    pytest.param("x64", "l1", 0.5, marks=pytest.mark.slow),
]


@contextlib.contextmanager
def flag(name, value):
    usual = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        yield
    finally:
        jax.config.update(name, usual)


@functools.cache
def usual(norm, eps):
    return audit(lambda x: linear(jnp.asarray(W), x), attacks=ATTACKS[norm], norm=norm, eps=eps, keep_images=True)


@pytest.mark.parametrize(("setting", "norm", "eps"), [*((name, "linf", EPS) for name in FLAGS), *OTHER_NORMS])
def test_the_same_bits_under_any_setting(setting, norm, eps):
    expected = usual(norm, eps)
    with flag(*FLAGS[setting]):
        model = lambda x: linear(jnp.asarray(W), x)
        found = audit(model, attacks=ATTACKS[norm], norm=norm, eps=eps, keep_images=True)
    for name, images in expected.adversarial.items():
        np.testing.assert_array_equal(found.correct[name], expected.correct[name])
        np.testing.assert_array_equal(found.adversarial[name], images)


@pytest.mark.parametrize("impl", ["rbg", "unsafe_rbg"])
def test_the_driver_alone_takes_keys_of_any_kind(impl):
    examples, named = Examples(IMAGES, LABELS.astype(np.int32), np.arange(N)), attack_at("pgd(steps=2)", "linf", EPS)
    model = compiled(Classifier(linear, W))
    of = lambda key, size: run_attacks(
        model.in_batches_of(size), examples, [named], key=key, num_classes=K, keep=N, early_stop=False
    )
    expected = of(jax.random.key(7), 16).images
    for size in (16, 48):
        np.testing.assert_array_equal(of(jax.random.key(7, impl=impl), size).images, expected)


@pytest.mark.parametrize("kind", [np.float16, jnp.bfloat16, np.float64, np.uint8])
def test_images_of_any_type_are_taken_for_what_they_say(kind):
    given = (IMAGES * 255).round().astype(np.uint8) if kind == np.uint8 else IMAGES.astype(kind)
    read = given / np.float32(255) if kind == np.uint8 else given.astype(np.float32)
    found, expected = (audit(lambda x: linear(W, x), images=x, keep_images=True) for x in (given, read))
    np.testing.assert_array_equal(found.adversarial["fgsm"], expected.adversarial["fgsm"])


def test_a_model_in_64_bits_is_attacked_as_it_would_be_in_32():
    expected = audit(linear, variables=W)
    with flag("jax_enable_x64", True):
        found = audit(linear, variables=jnp.asarray(W, jnp.float64))
    np.testing.assert_array_equal(found.correct["fgsm"], expected.correct["fgsm"])


# --- variables of any kind --------------------------------------------------------------------------------------------


@dataclass  # not frozen: it has no hash
class Scaled:
    by: jax.Array

    def __call__(self, v, x):
        return self.by * linear(v["w"], x)


CASES = {
    "function": (lambda v, x: v["act"](linear(v["w"], x)), {"w": W, "act": jnp.tanh}),
    "text": (lambda v, x: linear(v["w"], x), {"w": W, "axis": "batch"}),
    "switch": (lambda v, x: linear(v["w"], x) if v["on"] else x, {"w": W, "on": True, "p": 0.5, "none": None}),
    "unhashable": (Scaled(jnp.float32(2)), {"w": W}),
    "key": (lambda v, x: linear(v["w"], x), {"w": W, "rng": jax.random.key(3)}),
    "array of text": (lambda v, x: linear(v["w"], x), {"w": W, "names": np.array(["a", "b"])}),
}


@pytest.mark.parametrize(
    ("case", "precision"), [*((case, "float32") for case in CASES), ("switch", "bfloat16"), ("key", "bfloat16")]
)
def test_the_arrays_of_any_variables_are_taken(case, precision):
    forward, variables = CASES[case]
    twin = {**variables, "w": np.zeros_like(W)}
    found = audit(forward, variables=variables, twin=twin, precision=precision)
    assert found.accuracy["clean"] == 1 > found.accuracy["fgsm"]


def test_a_model_in_eval_mode_that_holds_a_key_fails_no_check():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.dropout, self.out = nnx.Dropout(0.5, rngs=rngs), nnx.Linear(16, K, rngs=rngs)

        def __call__(self, x):
            return self.out(self.dropout(x.reshape(len(x), -1)))

    net = Net(nnx.Rngs(0))
    net.eval()
    graph, state = nnx.split(net)
    labels = np.asarray(net(IMAGES)).argmax(-1)
    found = audit(lambda v, x: nnx.merge(graph, v)(x), variables=state, labels=labels, attacks="pgd", checks=True)
    assert {c["name"]: c["status"] for c in found.checks}["batch_statistics"] == "ok"
    assert not [check for check in found.checks if "could not be checked" in check["hint"]]


# --- only a missing rule is "no derivative" ---------------------------------------------------------------------------


def with_gradient(backward):
    made = jax.custom_vjp(lambda x: x)
    made.defvjp(lambda x: (x, None), backward)
    return lambda x: linear(W, made(x))


def unfinished(_, g):
    raise NotImplementedError("later")


class Leaks:
    seen = 0.0

    def __call__(self, x):
        self.seen = self.seen + x.mean()
        return linear(W, x) + 0 * self.seen


BROKEN = {
    "shape": (with_gradient(lambda _, g: (g[:1],)), "ValueError: Custom VJP bwd"),
    "unfinished": (with_gradient(unfinished), "NotImplementedError: later"),
    "bug": (with_gradient(lambda _, g: (g.nothing,)), "AttributeError"),
    "no rule given": (lambda x: linear(W, jax.custom_vjp(lambda x: x)(x)), "AttributeError"),
    "leak": (Leaks(), "evaluation mode"),
}


@pytest.mark.parametrize("attacks", ["pgd", "autoattack"])
@pytest.mark.parametrize("case", BROKEN)
def test_an_error_is_no_lack_of_a_derivative(case, attacks):
    forward, cause = BROKEN[case]
    with pytest.raises(ValueError) as error:
        audit(forward, attacks=attacks)
    assert cause in str(error.value) and "\n" not in str(error.value)


def called_back(x):
    return jax.pure_callback(lambda x: linear(W, x), jax.ShapeDtypeStruct((len(x), K), np.float32), x)


def looped(x):
    return jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, 1.0 * c[1]), (0, linear(W, x)))[1]


@pytest.mark.parametrize("model", [called_back, looped])
def test_without_a_rule_square_stands_under_its_own_name(model):
    few = {"images": IMAGES[:16], "labels": LABELS[:16]}
    found = audit(model, attacks="pgd,square(queries=20),autoattack", **few)
    assert list(found.correct) == ["clean", "square(queries=20)", "square"]
    assert "no derivative" in found.notes[0] and "square in place of pgd, autoattack" in found.notes[0]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_single_sigmoid_output_hears_what_to_do(shape):
    with pytest.raises(ValueError, match=r"jnp.stack\(\[0 \* z, z\], -1\)"):
        audit(lambda x: linear(W, x)[:, 0].reshape(shape))


# --- settings that cannot mean anything -------------------------------------------------------------------------------

MEANINGLESS = {
    "step": ({"attacks": "pgd(step_size=0)"}, "step_size must lie in (0, inf), got 0.0"),
    "l2 beyond the cube": ({"norm": "l2", "eps": 4.1}, "under l2 it lies in [0, 4], as no two images"),
    "l1 beyond the cube": ({"norm": "L1", "eps": 17}, "under l1 it lies in [0, 16]"),
    "negative batch": ({"batch_size": -8}, "batch_size is -8"),
    "no batch": ({"batch_size": 0}, "batch_size is 0"),
    "half a batch": ({"batch_size": 1.5}, "batch_size: 1.5 is no whole number"),
    "negative seed": ({"seed": -1}, "seed is -1"),
    "nan": ({"eps": float("nan")}, "eps: 'nan' is no number"),
    "no budget": ({"budget": 0}, "budget: 0 is none"),
    "no target": ({"attacks": "apgd_t(targets=0)"}, "targets must be at least 1, got 0"),
    "wrapping labels": ({"labels": LABELS.astype(np.int64) + 2**32}, "labels hold 42949"),
    "negative labels": ({"labels": LABELS - 1}, "labels hold -1; allowed: integers 0..K-1"),
}


@pytest.mark.parametrize("case", MEANINGLESS)
def test_meaningless_settings_are_one_line(case):
    settings, message = MEANINGLESS[case]
    with pytest.raises(ValueError) as error:
        audit(lambda x: linear(W, x), **settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_names_as_the_field_writes_them():
    model = lambda x: linear(W, x)
    found = audit(model, norm="L∞", attacks=["FGSM", "PGD-3", "C&W(steps=2)", "Square(queries=5,norm=Linf)"])
    assert list(found.correct)[1:] == ["fgsm", "pgd(steps=3)", "cw(steps=2)", "square(queries=5,norm=linf)"]
    np.testing.assert_array_equal(
        found.correct["pgd(steps=3)"], audit(model, attacks="pgd(steps=3)").correct["pgd(steps=3)"]
    )
