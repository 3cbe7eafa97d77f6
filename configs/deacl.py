"""DeACL (Zhang et al. 2022, arXiv 2207.10899): a SimCLR encoder, then a robust student held against it; and FARE.

    python -m clead_jax.main --config=configs/deacl.py                       ResNet-18 on CIFAR-10
    python -m clead_jax.main --config=configs/deacl.py:digits                the quickstart's network and data, minutes

":fare" and ":fare-digits" are FARE (Schlarmann et al. 2024, arXiv 2402.12336): attacked images alone, squared distance
to the teacher. The teacher is simclr.py, trained in the same run; the student starts from its weights.

Cost: 7 passes per image and epoch (PGD-5 and two views; FARE 6), 100 epochs, besides the teacher's 2 x 1,000. Settings
of DeACL are its authors': SGD 0.5, decay 5e-4, batch 256, warm-up 10 (here from 0, there from 0.003). Their probe falls
by steps of 10 at epochs 15 and 20, here by a cosine, and estimates batch statistics anew, here they are frozen.
Published (five runs): AutoAttack 46.14, PGD-20 53.45, clean 80.82 %. FARE fine-tunes CLIP in two epochs of ImageNet
(AdamW 1e-5, PGD-10 of 1/255 within 2/255 or 4/255); AdamW 1e-3, 100 epochs and the radius of the others are ours.
Digits, 360 images, AutoAttack fast: 85.3 % (:fare-digits 70.8); README, "The opponents on the digits". CIFAR-10 at full
length: not measured yet.
"""

from clead_jax import config

VIEWS = {"deacl": "clean,pgd(objective=cosine_distance)", "fare": "pgd(objective=squared_distance)"}
LOSSES = {
    "deacl": "distillation(clean_weight=1,attacked_weight=2)",
    "fare": "distillation(distance=l2,clean_weight=0,attacked_weight=1,anchor=teacher)",
}


def get_config(variant="deacl"):
    name, _, on = variant.rpartition("-") if "digits" in variant else (variant, "", "cifar10")
    name = name or "deacl"
    if name not in LOSSES or on not in ("cifar10", "digits"):
        raise ValueError(f"configs/deacl.py:{variant}: it can be deacl, fare, digits or fare-digits")
    cfg = config.preset(__file__, "simclr.py", on)
    cfg[name] = config.Contrastive(
        start="simclr",
        teacher="simclr",
        trains="backbone,head",
        views=VIEWS[name],
        ascend="teacher",
        loss=LOSSES[name],
        compares="backbone",
        epochs=100,
        batch_size=256,
        lr=0.5,
        warmup_epochs=10,
    )
    if name == "fare":
        cfg.fare.update({"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-4})
    if on == "digits":
        cfg[name].update({"epochs": 60, "batch_size": 128, "warmup_epochs": 5, "online_lr": 0.01})
    cfg.probe.start = name
    cfg.stages = f"baseline,simclr,{name},probe,evaluate,report"
    return cfg
