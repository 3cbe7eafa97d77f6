"""The adversarial twin of Margin SupCon: the same losses over C-LEAD's perturbation views, positives by class.

    python -m clead_jax.main --config=configs/adversarial_supcon.py --config.data.data_dir=DIR   also :cifar100
    python -m clead_jax.main --config=configs/adversarial_supcon.py:digits          minutes, no download

Its neighbours: instance positives (resnet18.py, quickstart.py) and PGD adversarial training (pgd_at.py). Digits, 360
images, AutoAttack fast: 90.8 %; README, "The opponents on the digits". CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config


def get_config(on="cifar10"):
    if on not in ("cifar10", "cifar100", "digits"):
        raise ValueError(f"configs/adversarial_supcon.py:{on}: it can be cifar10, cifar100 or digits")
    cfg = config.preset(__file__, "quickstart.py") if on == "digits" else config.base()
    cfg.stages, cfg.defended = "joint,evaluate,report", "joint"
    cfg.data.name = on
    cfg.evaluation.update({"attacks": "fgsm,pgd,cw,autoattack", "protocol": "whitebox"})
    if on == "digits":
        cfg.joint.update({"epochs": 30, "batch_size": 64})
    return cfg
