"""AIR (Xu et al. 2023, arXiv 2305.00374): DynACL's schedule with two regularisers of invariance, no momentum encoder.

    python -m clead_jax.main --config=configs/air.py                         ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/air.py:digits                  the quickstart's network and data, minutes

That is the regularisers as the authors' code has them, with which the published number was reached; ":paper" and
":paper-digits" are divergences as the paper writes them, see losses/acl.py. ":plus" and ":plus-digits" add DynACL's
post-stage (dynacl.py). No labels.

Cost: 15 passes per image and epoch (a fifth view, the image not augmented), 1,000 epochs. Settings: acl.py's, strength
falling by steps of 50 epochs, either regulariser with weight 0.5. Published: SLF 46.99 % (++). Digits, 360 images,
AutoAttack fast: 92.8 ± 1.5 % (:paper-digits 93.3 ± 1.0, :plus-digits 90.6 ± 1.5); README, "The opponents on the
digits". CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"plus": "SLF AutoAttack 46.99 (arXiv 2305.00374)"}
PLAIN = "augmented(crop_padding=0,flip=false)"
VARIANTS = ("cifar10", "released", "paper", "plus")


def get_config(variant="released"):
    name, digits = variant.removesuffix("digits").removesuffix("-") or "released", variant.endswith("digits")
    if name not in VARIANTS:
        raise ValueError(f"configs/air.py:{variant}: it can be {', '.join(VARIANTS)}, digits, each with -digits")
    plus = {False: "plus", True: "plus-digits"} if name == "plus" else {False: "plain", True: "digits"}
    cfg = config.preset(__file__, "dynacl.py", plus[digits])
    form = "paper" if name == "paper" else "released"
    cfg.air = config.Contrastive(**dict(cfg.dynacl))
    cfg.air.update({"views": cfg.air.views.replace(",pgd", f",{PLAIN},pgd", 1), "loss": f"air(air_form={form})"})
    cfg.air.key_momentum = 0.0
    cfg.stages = cfg.stages.replace("dynacl", "air")
    if name == "plus":
        cfg.assign.update({"start": "air", "pseudo_labels": "air"})
        cfg.trades.pseudo_labels = "air"
    else:
        cfg.probe.start = "air"
    return cfg
