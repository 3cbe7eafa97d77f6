"""PGD adversarial training as Rice et al. run it (arXiv 2002.11569): 200 epochs, a stepped rate, the best epoch counts.

    python -m clead_jax.main --config=configs/pgd_at_rice.py                 ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/pgd_at_rice.py:digits          the quickstart's network and data, minutes

As in the authors' code (locuslab/robust_overfitting): PGD-10 of 2/255 in 8/255 from a random start, attacked with the
batch's own statistics, mirrored edges before the crop, pixels normalised, SGD at 0.1 with decay 5e-4, a tenth after 100
and 150 epochs, and the epoch that is best by validation on 1,000 images (here every fifth epoch is looked at). Their
network is a pre-activation ResNet-18. There the attack also moves the running statistics, here it does not. 11 passes
an image and epoch, on digits 5. Digits, 360 images, AutoAttack fast: 90.6 %; README, "The opponents on the digits".
CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"cifar10": "WRN-34-20: clean 85.34, AutoAttack 53.42 (RobustBench)"}


def get_config(on="cifar10"):
    if on not in ("cifar10", "digits"):
        raise ValueError(f"configs/pgd_at_rice.py:{on}: it can be cifar10 or digits")
    cfg = config.preset(__file__, "quickstart.py") if on == "digits" else config.base()
    cfg.rice = config.Supervised(attack="pgd", attack_batch_norm="train", epochs=200, schedule="steps(epochs=100:150)")
    if on == "digits":
        cfg.rice.update({"epochs": 30, "batch_size": 64, "schedule": "steps(epochs=15:23)"})
    else:
        cfg.augment.padding, cfg.train_attack.steps = "reflect", 10
        cfg.data.validation, cfg.validation.every = 0.02, 5
        cfg.evaluation.which = "best"
    cfg.stages, cfg.defended = "rice,evaluate,report", "rice"
    cfg.evaluation.protocol = "whitebox"
    return cfg
