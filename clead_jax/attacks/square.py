"""The Square attack (Andriushchenko et al. 2020): random search with square windows, no gradients.

Each query changes one window of the perturbation and keeps the change if the objective increases. Linf: every pixel of
the window moves to the edge of the ball, the sign of each channel at random (algorithm 2). L2 and L1: the window gets a
smooth two-sided bump, whose norm is taken from the unused part of the ball and from a second window (algorithm 3; L1 as
in Croce & Hein 2021). Windows shrink with the number of queries; they differ from row to row, and so are comparisons
with row and column indices, not slices.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from clead_jax.attacks import norms
from clead_jax.attacks.best_so_far import Search, done, evaluate, nothing_yet, per_row, result, select
from clead_jax.attacks.objectives import margin
from clead_jax.core.registry import ATTACKS
from clead_jax.core.types import Array, Forward, Iterative, Key, Objective, PyTree

_SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: after these the area is halved
_POWER = {"l2": 2, "l1": 1}
_TINY = 1e-12


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SquareConfig:
    """Settings of Square; the defaults are AutoAttack's. A pytree; floats are traced by jit.

    AutoAttack makes 5000 queries of a schedule for 10,000; `rescale=True` ends the schedule and is the stronger attack.
    Raises ValueError for an unknown norm, a negative eps, p_init outside (0, 1] and no queries.
    """

    eps: float = 8 / 255  # radius of the ball, in pixels of [0, 1]
    p_init: float = 0.8  # share of the image that the first windows cover
    norm: str = jax.tree.static(default="linf")
    queries: int = jax.tree.static(default=5000)
    rescale: bool = jax.tree.static(default=False)  # stretch the schedule of window sizes to the number of queries

    random_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        norms.check_settings(self, eps=0, queries=1)
        if isinstance(self.p_init, float | int) and not 0 < self.p_init <= 1:
            raise ValueError(f"p_init must lie in (0, 1], got {self.p_init}")


def init(forward: Forward, objective: Objective, x: Array, target: PyTree, keys: Key, cfg: SquareConfig) -> Search:
    """The state before the first query. x [B, H, W, C] in [0, 1], keys [B] typed; ValueError for other shapes."""
    if x.ndim != 4:
        raise ValueError(f"the Square attack needs images [B, H, W, C], got {list(x.shape)}")
    made = jnp.zeros_like(per_row(x), jnp.int32)
    return Search(x, target, keys, made, nothing_yet(_start(keys, x, cfg)))


def step(forward: Forward, objective: Objective, state: Search, cfg: SquareConfig) -> Search:
    """One query; the first evaluates the start itself."""
    x_adv = select(state.made == 0, state.best.x_adv, _propose(state, cfg))
    return evaluate(forward, objective, state, x_adv)


def _start(keys: Key, x: Array, cfg: SquareConfig) -> Array:
    """Linf: vertical stripes of random signs. Else: a grid of bumps, about five by five (sections 4.1 and 4.2)."""
    _, height, width, channels = x.shape
    if cfg.norm == "linf":
        sign = _signs(_uniform(keys, 0, width * channels)).reshape(-1, 1, width, channels)
        return jnp.clip(x + cfg.eps * sign, 0.0, 1.0)
    side = max(min(height, width) // 5, 2)
    rows, columns = jnp.arange(height)[None] % side, jnp.arange(width)[None] % side
    down, across = -(-height // side), -(-width // side)
    signs = _signs(_uniform(keys, 0, down * across * channels)).reshape(-1, down, across, channels)
    signs = signs.repeat(side, 1)[:, :height].repeat(side, 2)[:, :, :width]
    return _onto_sphere(x, signs * _bump(rows, columns, jnp.array([[side]]), jnp.array([[False]])), cfg)


def _propose(state: Search, cfg: SquareConfig) -> Array:
    """The best point with one window changed."""
    _, height, width, channels = state.x.shape
    uniform = _uniform(state.key, state.made + 1, 5 + channels)
    side, signs = _side(state, cfg), _signs(uniform[:, 5:])[:, None, None, :]
    rows, columns = _place(uniform[:, 0:1], side, height), _place(uniform[:, 1:2], side, width)
    window = _within(rows, columns, side)
    if cfg.norm == "linf":
        return jnp.where(window, jnp.clip(state.x + cfg.eps * signs, 0.0, 1.0), state.best.x_adv)

    delta, p = state.best.x_adv - state.x, _POWER[cfg.norm]
    other = _within(_place(uniform[:, 2:3], side, height), _place(uniform[:, 3:4], side, width), side)
    left = jnp.maximum(cfg.eps**p - jnp.sum(_amount(delta, p), -1, keepdims=True), 0.0)
    budget = _amount(jnp.where(window | other, delta, 0.0), p) + left / channels
    old = jnp.where(window, delta, 0.0)
    bump = jnp.where(window, _bump(rows, columns, side, uniform[:, 4:5] < 0.5), 0.0)
    new = signs * _normalised(bump, p) + _normalised(old, p)
    new = _normalised(new, p) * budget ** (1 / p)
    return _onto_sphere(state.x, jnp.where(window, new, jnp.where(other, 0.0, delta)), cfg)


def _side(state: Search, cfg: SquareConfig) -> Array:
    """The side [B, 1] of this query's window. Bumps need at least 3 pixels, and an odd number of them."""
    _, height, width, _ = state.x.shape
    made = state.made[:, None] * (10_000 / cfg.queries if cfg.rescale else 1.0)
    area = cfg.p_init * height * width * 0.5 ** jnp.sum(made > jnp.array(_SCHEDULE), -1, keepdims=True)
    side = jnp.round(jnp.sqrt(area)).astype(jnp.int32)
    side = jnp.maximum(side, 1) if cfg.norm == "linf" else jnp.maximum(side, 3) // 2 * 2 + 1
    return jnp.minimum(side, min(height, width))


def _place(uniform: Array, side: Array, n: int) -> Array:
    """Indices [B, n] relative to the start of a window placed at random within n pixels."""
    start = jnp.floor(uniform * (n - side + 1)).astype(jnp.int32)
    return jnp.arange(n) - jnp.minimum(start, n - side)


def _within(rows: Array, columns: Array, side: Array) -> Array:
    """The window as bool [B, H, W, 1]."""
    down, across = ((i >= 0) & (i < side) for i in (rows, columns))
    return (down[:, :, None] & across[:, None, :])[..., None]


def _bump(rows: Array, columns: Array, side: Array, flip: Array) -> Array:
    """Two opposite bumps side by side, [B, H, W, 1]; rows [B, H] and columns [B, W] count from the window's corner.

    Each bump is a sum of centred squares of 1, 3, 5 ... pixels with weights 1, 1/4, 1/9 ... (eq. 2), so its height
    depends on the distance max(|row|, |column|) from its centre; `flip` [B, 1] puts one above the other.
    """
    most = max(rows.shape[1], columns.shape[1])
    fallen = jnp.asarray(np.cumsum(np.r_[0.0, 1 / np.arange(1, most + 2) ** 2]), jnp.float32)
    half = side // 2

    def down(i: Array, halved: Array) -> Array:
        centre = jnp.where(halved, jnp.where(i < half, half // 2, half + (side - half) // 2), half)
        return fallen[jnp.clip(jnp.abs(i - centre), 0, most)]

    height = fallen[half + 1][:, :, None] - jnp.maximum(down(rows, flip)[:, :, None], down(columns, ~flip)[:, None, :])
    second = jnp.where(flip[:, :, None], (rows >= half)[:, :, None], (columns >= half)[:, None, :])
    return jnp.where(second, -height, height)[..., None]


def _amount(v: Array, p: int) -> Array:
    """sum |v|^p of every channel, [B, 1, 1, C]."""
    return jnp.sum(jnp.abs(v) ** p, axis=(1, 2), keepdims=True)


def _normalised(v: Array, p: int) -> Array:
    """v [B, H, W, C] with every channel of norm 1; a channel of zeros stays."""
    return v / jnp.maximum(_amount(v, p) ** (1 / p), _TINY)


def _onto_sphere(x: Array, delta: Array, cfg: SquareConfig) -> Array:
    """x [B, H, W, C] plus delta scaled to the norm eps, clipped to the box."""
    p = _POWER[cfg.norm]
    size = jnp.sum(_amount(delta, p), -1, keepdims=True) ** (1 / p)
    return jnp.clip(x + delta * (cfg.eps / jnp.maximum(size, _TINY)), 0.0, 1.0)


def _uniform(keys: Key, query: int | Array, n: int) -> Array:
    """Uniform numbers [B, n] in [0, 1), different for every row and query."""
    query = jnp.broadcast_to(query, keys.shape)
    return jax.vmap(lambda key, i: jax.random.uniform(jax.random.fold_in(key, i), (n,)))(keys, query)


def _signs(uniform: Array) -> Array:
    return jnp.where(uniform < 0.5, -1.0, 1.0)


SQUARE = Iterative(init, step, result, done, lambda cfg: cfg.queries, forward_only=True, passes=lambda *_: (1, 0))
ATTACKS.register("square", SquareConfig, objective=margin)(SQUARE)
