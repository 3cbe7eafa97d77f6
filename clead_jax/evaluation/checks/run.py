"""Sanity checks of an evaluation: small questions to a model and its attack, each with its value and what to do.

    for check in run_checks(context):
        print(check["status"], check["name"], check["value"], check["hint"])

Every check would have caught something published; its docstring says what. None knows a defence by name: all go by
symptoms. Another check is another function (context) -> check in `CHECKS`.
"""

from collections.abc import Callable
from typing import Any

from clead_jax.evaluation.checks import attack_strength, gradient_masking, inputs, outputs, plausibility
from clead_jax.evaluation.checks.context import CheckContext, check

CHECKS: tuple[Callable[[CheckContext], dict[str, Any]], ...] = (
    inputs.images_range,
    inputs.looks_normalised,
    outputs.nan_outputs,
    outputs.probabilities_output,
    outputs.deterministic,
    outputs.batch_statistics,
    outputs.batch_composition,
    gradient_masking.gradient_zero_or_nan,
    gradient_masking.gradient_direction,
    gradient_masking.gradient_foretells,
    inputs.ball,
    inputs.ball_uint8,
    attack_strength.iterative_vs_one_step,
    attack_strength.noise_vs_gradient,
    attack_strength.blackbox_vs_whitebox,
    attack_strength.steps_enough,
    attack_strength.restarts_enough,
    attack_strength.loss_still_rising,
    attack_strength.falls_to_chance,
    attack_strength.undefended_falls,
    plausibility.only_training_attacks,
    plausibility.sample_size,
    plausibility.extraordinary,
)


def run_checks(context: CheckContext) -> list[dict[str, Any]]:
    """All checks of a model, in the order of `CHECKS`: {"name", "status", "value", "hint"} each.

    A model that cannot even be asked (no derivative, no single image, ...) fails the check that asks.
    """
    return [_ask(question, context) for question in CHECKS]


def _ask(question: Callable[[CheckContext], dict[str, Any]], context: CheckContext) -> dict[str, Any]:
    try:
        return question(context)
    except Exception as error:  # whatever a strange model raises: the other checks still run
        reason = next(iter(str(error).splitlines()), "")
        return check(question.__name__, "fail", None, f"could not be checked: {type(error).__name__}: {reason}"[:300])
