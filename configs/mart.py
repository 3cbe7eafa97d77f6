"""MART (Wang et al., ICLR 2020): boosted cross entropy on attacked images, KL where the clean ones are unsure.

    python -m clead_jax.main --config=configs/mart.py                        ResNet-18 on CIFAR-10, 120 epochs
    python -m clead_jax.main --config=configs/mart.py:digits                 the quickstart's network and data, minutes

As in the authors' code (YisenWang/MART): PGD-10 of 0.007 in 0.031 on cross entropy from 0.001 * N(0, 1), BatchNorm in
eval mode while attacked, SGD at 0.01 with decay 3.5e-3, a tenth after 75, 90 and 100 epochs, beta 5. They do not
normalise pixels, the network here does. 12 passes an image and epoch, on digits 6 (four steps of attack). Digits, 360
images, AutoAttack fast: 92.0 ± 0.6 %; README, "The opponents on the digits". CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"cifar10": "WRN-28-10, extra data: clean 87.50, AutoAttack 56.29 (RobustBench)"}


def get_config(on="cifar10"):
    if on not in ("cifar10", "digits"):
        raise ValueError(f"configs/mart.py:{on}: it can be cifar10 or digits")
    cfg = config.preset(__file__, "quickstart.py") if on == "digits" else config.base()
    cfg.mart = config.Supervised(views="clean,training_pgd(start=normal)", loss="mart(beta=5)")
    if on == "digits":
        cfg.mart.update({"epochs": 30, "batch_size": 64})
    else:
        cfg.train_attack.update({"eps": 0.031, "step_size": 0.007, "steps": 10})
        cfg.mart.update({"epochs": 120, "lr": 0.01, "weight_decay": 3.5e-3, "schedule": "steps(epochs=75:90:100)"})
    cfg.stages, cfg.defended = "mart,evaluate,report", "mart"
    cfg.evaluation.protocol = "whitebox"
    return cfg
