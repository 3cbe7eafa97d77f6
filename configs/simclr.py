"""SimCLR (Chen et al. 2020, arXiv 2002.05709): two colourful views of an image, no attack. The teacher of deacl.py.

    python -m clead_jax.main --config=configs/simclr.py                      ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/simclr.py:digits               the quickstart's network and data, minutes

Cost: 2 passes per image and epoch. Settings of the standard encoder that DeACL's authors started from (solo-learn, its
checkpoint is no longer offered): 1,000 epochs, LARS 0.4 with trust 0.02 and decay 1e-4, batch 256, temperature 0.2,
projector 2048-256; it reaches 90.74 % linear accuracy. Left out here: blur, the clipping of LARS, and padding of 2 in
the first convolution. Digits, 360 images, AutoAttack fast: 23.3 %; README, "The opponents on the digits". CIFAR-10 at
full length: not measured yet.
"""

from clead_jax import config

STRONG = "augmented(crop_padding=0,resized_crop=0.08,color_jitter=1.0,hue=0.2,grayscale=0.2)"
DIGITS = "augmented(crop_padding=0,resized_crop=0.4,color_jitter=0.5)"  # ours: a corner of a digit tells nothing


def get_config(on="cifar10"):
    if on not in ("cifar10", "digits"):
        raise ValueError(f"configs/simclr.py:{on}: it can be cifar10 or digits")
    cfg = config.preset(__file__, "quickstart.py") if on == "digits" else config.base()
    cfg.simclr = config.Contrastive(
        start="scratch",
        views=f"{STRONG},{STRONG}",
        loss="info_nce(pairing=all)",
        temperature=0.2,
        epochs=1000,
        batch_size=256,
        optimizer="lars(trust=0.02)",
        lr=0.4,
        weight_decay=1e-4,
        warmup_epochs=10,
    )
    if on == "digits":
        cfg.simclr.update({"views": f"{DIGITS},{DIGITS}", "epochs": 60, "batch_size": 128, "warmup_epochs": 5})
        cfg.simclr.update({"online_lr": 0.01})
    else:
        cfg.model.update({"projection_hidden": 2048, "projection_dim": 256})
        cfg.probe.update({"optimizer": "sgd", "lr": 0.1, "epochs": 25, "batch_size": 512, "weight_decay": 2e-4})
        cfg.probe.schedule = "cosine"
    cfg.probe.start = "simclr"
    cfg.stages = "baseline,simclr,probe,evaluate,report"
    return cfg
