"""Programs as text: collectives and convolutions count as often as they run, in what XLA:CPU and XLA:GPU write."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from clead_jax.core import hlo, sharding
from clead_jax.core.hlo import Collective, Convolution

# As XLA:GPU writes it: collectives that start and are done, library calls, a command buffer, a loop.
ON_A_GPU = """
HloModule jit_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add = f32[] add(%a, %b)
}

%gather.body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[], f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%p), index=1
  %all-gather-start = (f32[8,4]{1,0}, f32[64,4]{1,0}) all-gather-start(%x), dimensions={0}
  %all-gather-done = f32[64,4]{1,0} all-gather-done(%all-gather-start)
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%p, %x)
}

%gather.cond (p: (s32[], f32[8,4])) -> pred[] {
  ROOT %less = pred[] constant(true)
}

%command_buffer (p: bf16[2,3,3,4]) -> bf16[2,3,3,8] {
  %p.1 = bf16[2,3,3,4]{3,2,1,0} parameter(0)
  %cudnn-conv.1 = (bf16[2,3,3,8]{3,2,1,0}, u8[1024]{0}) custom-call(%p.1, %p.1), dim_labels=b01f_o01i->b01f, FORWARD
  ROOT %g = bf16[2,3,3,8]{3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
}

ENTRY %main (x: f32[8,4], w: f32[64]) -> f32[64] {
  %x.1 = f32[8,4]{1,0} parameter(0)
  %w = f32[64]{0} parameter(1)
  %both = (f32[64]{0}, bf16[2,2]{1,0}, /*index=2*/pred[3]{0}) all-reduce-start(%w, %w, %w), to_apply=%sum
  %all-reduce-done = (f32[64]{0}, bf16[2,2]{1,0}, /*index=2*/pred[3]{0}) all-reduce-done(%both)
  %scattered = f32[8]{0} reduce-scatter(%w), dimensions={0}, to_apply=%sum
  %while = (s32[], f32[8,4]{1,0}) while(%x.1), body=%gather.body, FIVE_TIMES
  %cudnn-conv-bw-filter.2 = (f32[8,4,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%x.1), dim_labels=bf01_oi01->bf01, BACKWARD
  %call = bf16[2,3,3,8]{3,2,1,0} call(%x.1), to_apply=%command_buffer
  ROOT %copy = f32[64]{0} copy(%w)
}
"""
ON_A_GPU = ON_A_GPU.replace("FIVE_TIMES", 'condition=%gather.cond, backend_config={"known_trip_count":{"n":"5"}}')
ON_A_GPU = ON_A_GPU.replace("FORWARD", 'custom_call_target="__cudnn$convForward"')
ON_A_GPU = ON_A_GPU.replace("BACKWARD", 'custom_call_target="__cudnn$convBackwardFilter"')


def test_a_program_for_gpus():
    assert hlo.collectives(ON_A_GPU) == {
        "all-reduce": Collective(1, 64 * 4 + 4 * 2 + 3, small=1),
        "reduce-scatter": Collective(1, 8 * 4, 1),
        "all-gather": Collective(5, 5 * 64 * 4 * 4, 5),  # in a loop of five
    }
    forward, weights = Convolution("bf16", "NHWC", "cuDNN", 1), Convolution("f32", "NCHW", "cuDNN", 1)
    assert sorted(hlo.convolutions(ON_A_GPU)) == sorted([forward, weights])


def test_what_xla_writes_here():
    """Five steps up the gradient in a loop, each with a sum over the devices, then the gradient by the weights."""
    mesh = sharding.data_mesh()
    numbers = ("NHWC", "HWIO", "NHWC")
    score = lambda x, w: (lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=numbers) ** 2).sum()

    def program(w, x):
        step = lambda x, _: (x + (g := jax.grad(score)(x, w)) - g.mean(), None)
        return jax.grad(score, 1)(lax.scan(step, x, None, length=5)[0], w)

    w = sharding.abstract(np.zeros((3, 3, 4, 4), np.float32), sharding.replicated(mesh))
    x = sharding.abstract(np.zeros((16, 8, 8, 4), np.float32), sharding.split(mesh))
    text = jax.jit(program, out_shardings=sharding.replicated(mesh)).lower(w, x).compile().as_text()
    assert hlo.collectives(text) == {"all-reduce": Collective(6, 5 * 4 + 3 * 3 * 4 * 4 * 4, 6)}
    assert sum(each.count for each in hlo.convolutions(text)) == 5 * 2 + 2
    assert {(each.dtype, each.by) for each in hlo.convolutions(text)} == {("f32", "XLA")}


def test_a_program_that_stays_on_its_device():
    text = jax.jit(lambda x: jnp.sin(x) @ x).lower(np.zeros((4, 4), np.float32)).compile().as_text()
    assert hlo.collectives(text) == {} and hlo.convolutions(text) == []


@pytest.mark.parametrize(
    ("shape", "size"),
    [("f32[]", 4), ("bf16[3,5]{1,0}", 30), ("pred[7]", 7), ("s4[3]", 2), ("f8e4m3fn[9]{0}", 9), ("(f32[2], u8[0])", 8)],
)
def test_bytes_of_a_shape(shape, size):
    assert hlo.num_bytes(shape) == size


def test_what_is_no_program():
    with pytest.raises(ValueError, match="no HLO program"):
        hlo.parsed("module @jit_f {}")
