"""TRADES (Zhang et al., arXiv 1901.08573): cross entropy on clean images, KL between clean and attacked ones, beta 6.

    python -m clead_jax.main --config=configs/trades.py                      ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/trades.py:digits               the quickstart's network and data, minutes

The attack maximises the same KL. Digits, 360 images, AutoAttack fast: 90.0 %; README, "The opponents on the digits".
CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"cifar10": "WRN-34-10: clean 84.92, AutoAttack 53.08 (RobustBench)"}


def get_config(on="cifar10"):
    if on not in ("cifar10", "digits"):
        raise ValueError(f"configs/trades.py:{on}: it can be cifar10 or digits")
    cfg = config.preset(__file__, "quickstart.py") if on == "digits" else config.base()
    cfg.trades = config.Supervised(views="clean,pgd(objective=kl)", loss="trades(beta=6)", weight_decay=2e-4)
    if on == "digits":
        cfg.trades.update({"epochs": 30, "batch_size": 64})
    cfg.stages, cfg.defended = "baseline,trades,evaluate,report", "trades"
    return cfg
