"""AWP (Wu et al., NeurIPS 2020, arXiv 2004.05884): the gradient is taken where the weights too are the worst nearby.

    python -m clead_jax.main --config=configs/awp.py                     PGD-AT + AWP, ResNet-18 on CIFAR-10, 200 epochs
    python -m clead_jax.main --config=configs/awp.py:trades              TRADES + AWP
    python -m clead_jax.main --config=configs/awp.py:digits              minutes; also :trades-digits

As in the authors' code (csdongxian/AWP): gamma 0.01, with TRADES 0.005 and from epoch 10; the recipe of Rice et al.
(pgd_at_rice.py), attacked in train-mode BatchNorm; TRADES with PGD-10 of 2/255 from 0.001 * N(0, 1) in eval mode. Their
network is a pre-activation ResNet-18, with TRADES a WRN-34-10. In any other stage:
--config.STAGE.perturb="awp(gamma=0.01)". 12 passes an image and epoch, with TRADES 14, on digits 6 and 8. Digits, 360
images, AutoAttack fast: 87.2 % (:trades-digits 87.8); README, "The opponents on the digits". CIFAR-10 at full length:
not measured yet.
"""

from clead_jax import config

PUBLISHED = {
    "cifar10": "WRN-34-10: clean 85.36, AutoAttack 53.97 (authors' README)",
    "trades": "WRN-34-10: clean 85.36, AutoAttack 56.17 (authors' README)",
}


def get_config(variant="cifar10"):
    form, _, on = ("cifar10", "", "digits") if variant == "digits" else variant.partition("-")
    if form not in ("cifar10", "trades") or on not in ("", "digits"):
        raise ValueError(f"configs/awp.py:{variant}: it can be cifar10, trades, digits, trades-digits")
    rice = config.preset(__file__, "pgd_at_rice.py", on or "cifar10")
    cfg, recipe = rice, dict(rice.rice) | {"perturb": "awp(gamma=0.01)"}
    if form == "trades":
        recipe |= {"attack": "", "views": "clean,training_pgd(objective=kl,start=normal)", "loss": "trades(beta=6)"}
        recipe |= {"perturb": f"awp(gamma=0.005,start={2 if on else 10})", "attack_batch_norm": "eval"}
    cfg.awp = config.Supervised(**recipe)
    cfg.stages, cfg.defended = "awp,evaluate,report", "awp"
    return cfg
