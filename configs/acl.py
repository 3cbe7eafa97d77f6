"""ACL (Jiang et al. 2020, arXiv 2010.13337): contrast of two clean and of two attacked views, each with a BatchNorm.

    python -m clead_jax.main --config=configs/acl.py                         ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/acl.py:digits                  the quickstart's network and data, minutes

That is the dual stream. ":a2s", ":a2a" and ":s2s" (and each with "-digits") are the paper's other forms, with one
BatchNorm: an attacked against a clean view, two attacked ones, two clean ones (SimCLR). No labels.

Cost: 14 passes per image and epoch (PGD-5 on both views, four views; a2s 7, a2a 12, s2s 2), 1,000 epochs. Settings are
those of the authors' code: temperature 0.5, LARS 5 with trust 0.001, decay 1e-6, batch 512, warm-up 10, cosine (there
to 1e-6, here to 0), projector 512-512-512 with BatchNorm after each layer. In a2s keys give the attack no gradient,
which they do there; LARS on every weight and one BatchNorm for the other forms are ours. Evaluated is the BatchNorm of
attacked images. Probe: SGD 0.01, batch 512, 25 epochs, falling by 10 at 10 and 20 (momentum of Nesterov there), frozen
statistics; its decay is DynACL's. Digits, 360 images, AutoAttack fast: 89.4 % (:a2a-digits 88.6, :a2s-digits 87.8,
:s2s-digits 36.4); README, "The opponents on the digits". CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

VIEW = {
    "cifar10": "augmented(crop_padding=0,resized_crop=0.1,color_jitter=0.5,hue=0.1,grayscale=0.2)",
    "digits": "augmented(crop_padding=0,resized_crop=0.4,color_jitter=0.5)",
}
ATTACK = {"cifar10": "pgd(steps=5,step_size=2/255,eps=8/255)", "digits": "pgd"}
FORMS = {
    "ds": {"views": "{view},{view},{attack},{attack}", "ascend": "pairs", "loss": "acl", "encoding": "dual"},
    "a2s": {"starts": "{view}", "views": "{view},{attack}", "ascend": "partner", "loss": "info_nce(pairing=all)"},
    "a2a": {
        "starts": "{view},{view}",
        "views": "{attack},{attack}",
        "ascend": "pairs",
        "loss": "info_nce(pairing=all)",
    },
    "s2s": {"views": "{view},{view}", "loss": "info_nce(pairing=all)"},
}


def get_config(variant="ds"):
    form, _, on = variant.rpartition("-") if variant.endswith("digits") else (variant, "", "cifar10")
    form = {"": "ds", "cifar10": "ds"}.get(form, form)
    if form not in FORMS or on not in VIEW:
        raise ValueError(f"configs/acl.py:{variant}: it can be cifar10, digits, {', '.join(FORMS)}, each with -digits")
    cfg = config.preset(__file__, "quickstart.py") if on == "digits" else config.base()
    cfg.acl = config.Contrastive(
        start="scratch",
        temperature=0.5,
        epochs=1000,
        batch_size=512,
        optimizer="lars(vectors=true)",
        lr=5.0,
        weight_decay=1e-6,
        warmup_epochs=10,
    )
    cfg.acl.update({field: text.format(view=VIEW[on], attack=ATTACK[on]) for field, text in FORMS[form].items()})
    cfg.model.update({"projection_layers": 3, "projection_norm": True})
    if on == "digits":
        cfg.acl.update({"epochs": 60, "batch_size": 128, "warmup_epochs": 5, "online_lr": 0.01})
    else:
        cfg.model.projection_dim = 512
        cfg.probe.update({"optimizer": "sgd", "lr": 0.01, "epochs": 25, "batch_size": 512, "weight_decay": 1e-4})
        cfg.probe.schedule = "steps(epochs=10:20)"
    cfg.probe.start = "acl"
    cfg.stages = "baseline,acl,probe,evaluate,report"
    return cfg
