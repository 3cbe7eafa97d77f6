"""Margin SupCon (arXiv 2412.19747): cross entropy, supervised contrastive and margin loss, ResNet-18 on CIFAR-100.

    python -m clead_jax.main --config=configs/margin_supcon_cifar100.py --config.data.data_dir=DIR

":ce" leaves both contrastive losses out, ":supcon" the margin loss; "-strong" (":ce-strong") adds SimCLR's colours
(arXiv 2002.05709, appendix A, strength 0.5 as for CIFAR) to crop and flip. The paper's comparison in one command:

    F=configs/margin_supcon_cifar100.py
    python -m clead_jax.sweep --sweep.config=$F:ce,$F:supcon,$F:margin --config.data.data_dir=DIR

Full-length numbers: not measured yet.
"""

from clead_jax import config

WEIGHTS = {"ce": (1.0, 0.0, 0.0), "supcon": (1.0, 1.0, 0.0), "margin": (1.0, 1.0, 1.0)}


def get_config(variant="margin", cfg=None):
    terms, _, augmentation = variant.partition("-")
    if terms not in WEIGHTS or augmentation not in ("", "strong"):
        raise ValueError(f"margin_supcon: no variant {variant!r}; it can be ce, supcon or margin, each with -strong")
    if cfg is None:
        cfg = config.base()
        cfg.data.name = "cifar100"
        cfg.evaluation.curve = "0,0.5/255,1/255,2/255,4/255,8/255"
    cfg.stages, cfg.defended = "joint,evaluate,report", "joint"
    cfg.views = "clean,augmented"  # two draws: every image has a positive
    cfg.joint.weight_ce, cfg.joint.weight_supcon, cfg.joint.weight_margin = WEIGHTS[terms]
    if augmentation:
        cfg.augment.update({"color_jitter": 0.5, "grayscale": 0.2})
    cfg.evaluation.update({"attacks": "fgsm,pgd,autoattack", "protocol": "whitebox"})
    cfg.evaluation.curve_attack = "fgsm"  # the paper draws FGSM at rising eps
    return cfg
