"""ProFeAT (Addepalli et al. 2024, arXiv 2406.05796): a student held against its teacher by features and projections.

    python -m clead_jax.main --config=configs/profeat.py                     ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/profeat.py:digits              the quickstart's network and data, minutes

As DeACL (deacl.py) with the same teacher, and beside the features the projections, of a projector that the student
takes over and does not train; the teacher sees cropped and flipped images, the student strongly augmented ones; clean
and attacked images are forwarded separately; the attack moves features away from the student's own clean ones,
projections from the teacher's.

Cost: 7 passes per image and epoch, 100 epochs, besides the teacher's 2 x 1,000. Settings are the authors' for a
WideResNet-34-10 on CIFAR-100: SGD 0.5, decay 3e-4, batch 256, warm-up 10, weight 8, projector 640-256 (here 2048-256,
the teacher's). They augment by AutoAugment; SimCLR's colours stand for it here. Their probe: SGD 5.0, 25 epochs, frozen
statistics. Digits, 360 images, AutoAttack fast: 66.4 %; README, "The opponents on the digits". CIFAR-10 at full length:
not measured yet.
"""

from clead_jax import config

STRONG = {
    "cifar10": "augmented(color_jitter=0.5,hue=0.1,grayscale=0.2)",
    "digits": "augmented(color_jitter=0.5)",
}


def get_config(on="cifar10"):
    if on not in STRONG:
        raise ValueError(f"configs/profeat.py:{on}: it can be cifar10 or digits")
    cfg = config.preset(__file__, "simclr.py", on)
    cfg.profeat = config.Contrastive(
        start="simclr",
        teacher="simclr",
        trains="backbone,head",
        views=f"{STRONG[on]},pgd(objective=cosine_distance)",
        ascend="student,teacher",
        loss="distillation(clean_weight=1,attacked_weight=8)",
        compares="backbone,projector",
        encoding="apart",
        epochs=100,
        batch_size=256,
        lr=0.5,
        weight_decay=3e-4,
        warmup_epochs=10,
    )
    if on == "digits":
        cfg.profeat.update({"epochs": 60, "batch_size": 128, "warmup_epochs": 5, "online_lr": 0.01})
    cfg.probe.start = "profeat"
    cfg.stages = "baseline,simclr,profeat,probe,evaluate,report"
    return cfg
