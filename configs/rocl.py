"""RoCL (Kim et al. 2020, arXiv 2006.07589): two views and one made from the first by an attack on NT-Xent; no labels.

    python -m clead_jax.main --config=configs/rocl.py                        ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/rocl.py:digits                 the quickstart's network and data, minutes

Cost: 10 passes per image and epoch (PGD-7 and three views), 1,000 epochs. Settings are those of the authors' code:
temperature 0.5, keys without gradient, 1/256 of a second NT-Xent, LARS with SGD 1.5 on every weight, decay 1e-6, batch
512, warm-up 10 (here from 0, there from 0.1), projector 2048-128. The code sums over the two positives of an anchor; it
forwards the second part in a batch of its own, here all views are one. Probe: SGD 0.1, batch 1024, 150 epochs, falling
by steps there, by a cosine here. Digits, 360 images, AutoAttack fast: 78.1 %; README, "The opponents on the digits".
CIFAR-10 at full length: not measured yet.
"""

from clead_jax import config

VIEW = {
    "cifar10": "augmented(crop_padding=0,resized_crop=0.08,color_jitter=0.5,hue=0.1,grayscale=0.2)",
    "digits": "augmented(crop_padding=0,resized_crop=0.4,color_jitter=0.5)",
}
ATTACK = {"cifar10": "pgd(steps=7,step_size=0.007,eps=0.0314)", "digits": "pgd"}


def get_config(on="cifar10"):
    if on not in VIEW:
        raise ValueError(f"configs/rocl.py:{on}: it can be cifar10 or digits")
    cfg = config.preset(__file__, "quickstart.py") if on == "digits" else config.base()
    cfg.rocl = config.Contrastive(
        start="scratch",
        views=f"{VIEW[on]},{VIEW[on]},{ATTACK[on]}",
        ascend="partner",
        loss="rocl(stop_keys=true)",
        temperature=0.5,
        epochs=1000,
        batch_size=512,
        optimizer="lars(vectors=true)",
        lr=1.5,
        weight_decay=1e-6,
        warmup_epochs=10,
    )
    if on == "digits":
        cfg.rocl.update({"epochs": 60, "batch_size": 128, "warmup_epochs": 5, "online_lr": 0.01})
    else:
        cfg.model.projection_hidden = 2048
        cfg.probe.update({"optimizer": "sgd", "lr": 0.1, "epochs": 150, "batch_size": 1024, "weight_decay": 5e-4})
        cfg.probe.schedule = "cosine"
    cfg.probe.start = "rocl"
    cfg.stages = "baseline,rocl,probe,evaluate,report"
    return cfg
