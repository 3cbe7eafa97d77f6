"""An evaluation that doubts itself: small questions to a model and its attack, each with its value and what to do.

    for check in examine(subject):
        print(check["status"], check["name"], check["value"], check["hint"])

Every question would have caught something published; its docstring says what. None knows a defence by name: all go by
symptoms. Another question is another function (subject) -> check in `CHECKS`.
"""

from collections.abc import Callable
from typing import Any

from clead_jax.evaluation.checks import attack_strength as doubts_attack
from clead_jax.evaluation.checks import inputs as doubts_images
from clead_jax.evaluation.checks import outputs as doubts_model
from clead_jax.evaluation.checks import plausibility as doubts_record
from clead_jax.evaluation.checks.context import Subject
from clead_jax.evaluation.checks.verdicts import check

CHECKS: tuple[Callable[[Subject], dict[str, Any]], ...] = (
    doubts_images.images_range,
    doubts_images.looks_normalised,
    doubts_model.nan_outputs,
    doubts_model.probabilities_output,
    doubts_model.deterministic,
    doubts_model.batch_statistics,
    doubts_model.batch_composition,
    doubts_model.gradient_zero_or_nan,
    doubts_model.gradient_direction,
    doubts_model.gradient_foretells,
    doubts_images.ball,
    doubts_images.ball_uint8,
    doubts_attack.iterative_vs_one_step,
    doubts_attack.noise_vs_gradient,
    doubts_attack.blackbox_vs_whitebox,
    doubts_attack.steps_enough,
    doubts_attack.restarts_enough,
    doubts_attack.loss_still_rising,
    doubts_attack.falls_to_chance,
    doubts_attack.undefended_falls,
    doubts_record.only_training_attacks,
    doubts_record.sample_size,
    doubts_record.extraordinary,
)


def examine(subject: Subject) -> list[dict[str, Any]]:
    """All checks of a model, in the order of `CHECKS`: {"name", "status", "value", "hint"} each.

    A model that cannot even be asked (no derivative, no single image, ...) fails the check that asks.
    """
    return [_ask(question, subject) for question in CHECKS]


def _ask(question: Callable[[Subject], dict[str, Any]], subject: Subject) -> dict[str, Any]:
    try:
        return question(subject)
    except Exception as error:  # whatever a strange model raises: the other checks are to be heard too
        reason = next(iter(str(error).splitlines()), "")
        return check(question.__name__, "fail", None, f"could not be checked: {type(error).__name__}: {reason}"[:300])
