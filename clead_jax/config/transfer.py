"""The section of the config that says how the images of a transfer attack are made."""

from dataclasses import dataclass

from clead_jax.config.sections import Section


@dataclass
class Transfer(Section):
    """Images made on one model, the surrogate, and shown to the others (protocol "paper"). Which one the paper takes is
    unsaid. Its authors' code has one undefended ResNet-34 for all depths, PGD of 3 steps of 3/255, 8/255 and 4/255.
    """

    source: str = "baseline"  # a stage, another work directory (then its baseline), or DIR:STAGE
    attacks: str = ""  # any registered attacks, of any norm; empty: evaluation.attacks
    eps: str = ""  # radii of those that carry none; empty: evaluation.eps
