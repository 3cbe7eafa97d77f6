"""The control: PGD adversarial training (Madry et al., arXiv 1706.06083) in the same loop, evaluated in the same way.

    python -m clead_jax.main --config=configs/pgd_at.py                      ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/pgd_at.py:digits               the quickstart's network and data, minutes

Digits, 360 images, AutoAttack fast: 89.7 ± 0.7 %; README, "The opponents on the digits". CIFAR-10 at full length: not
measured yet.
"""

from clead_jax import config

DIGITS = "quickstart.py"


def get_config(on="cifar10"):
    if on not in ("cifar10", "digits"):
        raise ValueError(f"configs/pgd_at.py:{on}: it can be cifar10 or digits")
    cfg = config.preset(__file__, DIGITS) if on == "digits" else config.base()
    cfg.stages = "baseline,supervised,evaluate,report"
    cfg.defended = "supervised"
    if on == "digits":
        cfg.supervised.update({"epochs": 30, "batch_size": 64, "lr": 0.1})
    return cfg
