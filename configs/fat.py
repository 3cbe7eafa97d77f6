"""FAT (Zhang et al., ICML 2020, arXiv 2002.11242): an image is attacked no further once it is wrong, but for tau steps.

    python -m clead_jax.main --config=configs/fat.py                         ResNet-18 on CIFAR-10, 120 epochs
    python -m clead_jax.main --config=configs/fat.py:trades                  FAT for TRADES; also :mart
    python -m clead_jax.main --config=configs/fat.py:digits                  minutes; also :trades-digits, :mart-digits

As in the authors' code (zjfheart/Friendly-Adversarial-Training): at most 10 steps of 0.007 in 0.031, tau 0 and one more
after 50 and 90 epochs (with TRADES after 30, 50, 70, with MART after 20, 40, 60, 80); FAT starts in the whole ball and
adds 0.001 * N(0, 1) in each step, the others start from 0.001 * N(0, 1). The network there is a WRN-32-10, and pixels
are not normalised. 11 passes an image and epoch whatever tau is, for the loop has a fixed length: 12 with a clean view,
on digits 5 and 6. The authors' loop drops images that are done: 1.5 to 6 passes in early epochs. Digits, 360 images,
AutoAttack fast: 86.9 % (:trades-digits 88.9, :mart-digits 90.0); README, "The opponents on the digits". CIFAR-10 at
full length: not measured yet.
"""

from clead_jax import config

PUBLISHED = {
    "cifar10": "WRN-32-10: clean 89.34, FGSM 65.52, PGD-20 46.13, C&W 46.82 (authors' README)",
    "trades": "WRN-32-10: clean 86.60, FGSM 61.79, PGD-20 55.98, C&W 54.29 (authors' README); "
    "clean 84.52, AutoAttack 53.51 (RobustBench, WRN-34-10)",
}
FORMS = {
    "cifar10": {"attack": "training_pgd(noise=0.001)", "epochs": 120},
    "trades": {
        "views": "clean,training_pgd(objective=kl,start=normal)",
        "loss": "trades(beta=6)",
        "epochs": 100,
        "schedule": "steps(epochs=75:90)",
    },
    "mart": {
        "views": "clean,training_pgd(start=normal)",
        "loss": "mart(beta=6)",
        "epochs": 90,
        "schedule": "steps(epochs=60:90)",
    },
}
FORMS["cifar10"]["schedule"] = "steps(epochs=60:90:110,factor=0.1:0.1:0.5)"
LATER = {"cifar10": "50:90", "trades": "30:50:70", "mart": "20:40:60:80"}
LATER_ON_DIGITS = {"cifar10": "13:23", "trades": "9:15:21", "mart": "7:13:20:27"}  # the same shares of 30 epochs


def get_config(variant="cifar10"):
    form, _, on = ("cifar10", "", "digits") if variant == "digits" else variant.partition("-")
    if form not in FORMS or on not in ("", "digits"):
        raise ValueError(
            f"configs/fat.py:{variant}: it can be cifar10, trades, mart, digits, trades-digits, mart-digits"
        )
    cfg = config.preset(__file__, "quickstart.py") if on else config.base()
    later = (LATER_ON_DIGITS if on else LATER)[form]
    cfg.fat = config.Supervised(**FORMS[form], strategy=f"friendly(later={later})", weight_decay=2e-4)
    if on:
        cfg.fat.update({"epochs": 30, "batch_size": 64, "schedule": "cosine"})
    else:
        cfg.train_attack.update({"eps": 0.031, "step_size": 0.007, "steps": 10})
    cfg.stages, cfg.defended = "fat,evaluate,report", "fat"
    cfg.evaluation.protocol = "whitebox"
    return cfg
