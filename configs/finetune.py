"""What to put on a pre-trained encoder: four ways to make it a classifier, as in DynACL's Table 1 (arXiv 2303.01289).

    python -m clead_jax.main --config=configs/finetune.py:aff                ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/finetune.py:aff-digits        the quickstart's network and data, minutes

":slf" trains a linear layer on clean images (the probe of every C-LEAD config), ":alf" a linear layer on attacked
images, ":sff" everything on clean images, ":aff" everything on attacked ones. A linear layer is trained as the probe
is; everything with SGD, lr 0.01 and decay 2e-4, for 25 epochs, as there. All start from stage pretrain, which an
earlier run in the same work directory may have trained. Full-length CIFAR-10 numbers: not measured yet.
"""

from clead_jax import config

WAYS = {
    "slf": {"trains": "head"},
    "alf": {"trains": "head", "attack": "pgd"},
    "sff": {"trains": "backbone,head"},
    "aff": {"trains": "backbone,head", "attack": "pgd"},
}


def get_config(variant="aff"):
    way, _, on = variant.partition("-")
    if way not in WAYS or on not in ("", "digits"):
        raise ValueError(f"configs/finetune.py:{variant}: it can be {', '.join(WAYS)}, each with -digits")
    cfg = config.preset(__file__, "quickstart.py") if on else config.base()
    whole = {"start": "pretrain", "fresh": "head", "epochs": 25, "lr": 0.01, "weight_decay": 2e-4}
    if on:
        whole |= {"batch_size": 64, "epochs": 15}
    settings = dict(cfg.probe) if WAYS[way]["trains"] == "head" else whole
    cfg[way] = config.Supervised(**settings | WAYS[way])
    cfg.stages, cfg.defended = f"baseline,pretrain,{way},evaluate,report", way
    return cfg
