"""Sanity checks of an evaluation: small questions to a model and its attack, each with its value and what to do.

Every check would have caught something published; its docstring says what. None knows a defence by name: all go by
symptoms. Another check is another function (context) -> check in `CHECKS`.
"""

from collections.abc import Callable
from typing import Any

from clead_jax.evaluation.checks import attack_strength, binarization, gradient_masking, inputs, outputs, plausibility
from clead_jax.evaluation.checks.context import CheckContext, check

Check = Callable[[CheckContext], dict[str, Any]]

CHECKS: tuple[Check, ...] = (
    *(inputs.images_range, inputs.looks_normalised),
    *(outputs.nan_outputs, outputs.probabilities_output, outputs.deterministic),
    *(outputs.batch_statistics, outputs.batch_composition),
    *(gradient_masking.gradient_zero_or_nan, gradient_masking.gradient_direction, gradient_masking.gradient_foretells),
    *(inputs.ball, inputs.ball_uint8),
    *(attack_strength.iterative_vs_one_step, attack_strength.noise_vs_gradient, attack_strength.blackbox_vs_whitebox),
    *(attack_strength.steps_enough, attack_strength.restarts_enough, attack_strength.loss_still_rising),
    *(attack_strength.falls_to_chance, attack_strength.undefended_falls, binarization.finds_planted_points),
    *(plausibility.robust_above_clean, plausibility.only_training_attacks),
    *(plausibility.sample_size, plausibility.extraordinary),
)


def run_checks(context: CheckContext) -> list[dict[str, Any]]:
    """All checks of a model, in the order of `CHECKS`, as `check` gives them; one that cannot be made has failed."""
    return [_run(made, context) for made in CHECKS]


def _run(made: Check, context: CheckContext) -> dict[str, Any]:
    try:
        return made(context)
    except Exception as error:  # whatever a strange model raises: the other checks are to be made too
        reason = next(iter(str(error).splitlines()), "")
        return check(made.__name__, "fail", None, f"could not be checked: {type(error).__name__}: {reason}"[:300])
