"""LAS-AT (Jia et al., CVPR 2022, arXiv 2203.06616): a second network learns radius, step size and steps for each image.

    python -m clead_jax.main --config=configs/las_at.py                   LAS-PGD-AT, ResNet-18 on CIFAR-10, 110 epochs
    python -m clead_jax.main --config=configs/las_at.py:awp               LAS-AWP, 200 epochs
    python -m clead_jax.main --config=configs/las_at.py:digits            minutes; also :awp-digits

As in the authors' code (jiaxiaojunQAQ/LAS-AT), which the paper's text leaves open: the radius is chosen from 3/255 to
15/255, above the 8/255 of the evaluation (LAS-AWP from 7/255; the authors clip those images to 8/255 for the model's
own step, here they stay); the start lies within 8/255 whatever the radius; the reward is one number for the batch, of
a copy one SGD step ahead; cross entropy with 0.7 on the label. Not here: LAS-TRADES. On digits ranges are those shares
of the radius 0.1, and the strategy network, which makes 120 steps there, learns 100 times as fast.

Passes an image and epoch: 18 (14 steps of attack, one of training, the strategy network, and its reward every 20th
step); LAS-AWP 43, for it is rewarded in every step; on digits 11 and 12. Digits, 360 images, AutoAttack fast: 86.1 %
(:awp-digits 89.4); README, "The opponents on the digits". CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"awp": "WRN-34-10: clean 84.98, AutoAttack 56.26 (RobustBench)"}
FORMS = {
    "cifar10": {
        "attack": "training_pgd(steps=14,start_eps=8/255)",
        "strategy": "las_at",
        "loss": "cross_entropy(smoothing=1/3)",  # 0.7 on the label, 0.3 over the other nine
        "epochs": 110,
        "schedule": "steps(epochs=99:104)",
    },
    "awp": {
        "attack": "training_pgd(steps=16,start_eps=8/255)",
        "strategy": "las_at(eps=7/255:15/255:9,step_size=2/255:5/255:4,steps=8:16,every=1,robust=1,clean=1)",
        "perturb": "awp(gamma=0.01)",
        "epochs": 200,
        "schedule": "steps(epochs=100:150)",
    },
}
REWARD = "lr=0.01,attack=pgd(steps=4,restarts=2,keep=best)"
ON_DIGITS = {
    "cifar10": {
        "attack": "training_pgd(steps=6,start_eps=0.1)",
        "strategy": f"las_at(eps=0.04:0.18:8,step_size=0.02:0.1:5,steps=2:6,every=5,{REWARD})",
    },
    "awp": {
        "attack": "training_pgd(steps=6,start_eps=0.1)",
        "strategy": f"las_at(eps=0.08:0.18:6,step_size=0.04:0.1:4,steps=3:6,every=5,robust=1,clean=1,{REWARD})",
    },
}


def get_config(variant="cifar10"):
    form, _, on = ("cifar10", "", "digits") if variant == "digits" else variant.partition("-")
    if form not in FORMS or on not in ("", "digits"):
        raise ValueError(f"configs/las_at.py:{variant}: it can be cifar10, awp, digits, awp-digits")
    cfg = config.preset(__file__, "quickstart.py") if on else config.base()
    cfg.las_at = config.Supervised(**FORMS[form])
    if on:
        cfg.las_at.update(ON_DIGITS[form] | {"epochs": 30, "batch_size": 64, "schedule": "cosine"})
    cfg.stages, cfg.defended = "las_at,evaluate,report", "las_at"
    cfg.evaluation.protocol = "whitebox"
    return cfg
