"""DynACL (Luo et al. 2023, arXiv 2303.01289): ACL with augmentation that grows weaker, and a momentum encoder.

    python -m clead_jax.main --config=configs/dynacl.py                      ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/dynacl.py:digits               the quickstart's network and data, minutes

":plus" and ":plus-digits" are DynACL++: k-means clusters of the clean BatchNorm's features, as many as classes, are
labels for a linear head and then for TRADES on the whole network, before the probe. No labels until then. Validation
counts clusters as classes, so that its accuracy means nothing in these two stages.

Cost: 14 passes per image and epoch (keys not counted), 1,000 epochs; ++ 10 epochs of 1 and 25 of 12 more. Settings are
the authors': as acl.py, the strength of crops, colours and grey falls by steps of 50 epochs, the weight of the attacked
pair rises from 1/2 towards 5/6 with it, decay of the momentum encoder 0.99. What is evaluated, and trained further, is
the momentum encoder. The rate falls by step here, by epoch there. ++: head with SGD 0.01, TRADES 6 with SGD 0.1, both
decay 1e-4, batch 512; the attack starts with a little noise, as TRADES has it, there from the image itself. Published:
SLF 45.09 % under AutoAttack (++ is tested by two of its attacks only). Digits, 360 images, AutoAttack fast: 92.5 ± 1.0
% (:plus-digits 88.6); README, "The opponents on the digits". CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"plain": "SLF AutoAttack 45.09 (arXiv 2303.01289)"}
VARIANTS = {"cifar10": "", "plain": "", "digits": "digits", "plus": "", "plus-digits": "digits"}


def get_config(variant="plain"):
    if variant not in VARIANTS:
        raise ValueError(f"configs/dynacl.py:{variant}: it can be {', '.join(VARIANTS)}")
    cfg = config.preset(__file__, "acl.py", VARIANTS[variant] or "ds")
    digits = bool(VARIANTS[variant])
    cfg.dynacl = config.Contrastive(**dict(cfg.acl))
    cfg.dynacl.update({"loss": "acl(shift=0.6667,keys=true)", "key_momentum": 0.99})
    cfg.dynacl.fade_every = 3 if digits else 50
    cfg.probe.start = "dynacl:momentum"
    cfg.stages = "baseline,dynacl,probe,evaluate,report"
    if variant.startswith("plus"):
        _post_stage(cfg, "dynacl:momentum", digits)
    return cfg


def _post_stage(cfg, start, digits):
    """Two stages that learn clusters for labels, between `start` and the probe."""
    common = {"pseudo_labels": start, "weight_decay": 1e-4, "batch_size": 128 if digits else 512}
    cfg.assign = config.Supervised(
        start=start, fresh="head", trains="head", epochs=10, lr=0.01, schedule="constant", augment=False, **common
    )
    steps = "" if digits else "steps=10,step_size=2/255,"
    cfg.trades = config.Supervised(
        start="assign",
        views=f"clean,training_pgd({steps}start=normal,objective=kl)",
        loss="trades(beta=6)",
        encoding="dual",
        epochs=25,
        lr=0.1,
        schedule="steps(epochs=10:20)",
        **common,
    )
    cfg.probe.start = "trades"
    cfg.stages = cfg.stages.replace("probe", "assign,trades,probe")
