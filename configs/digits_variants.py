"""Variants of C-LEAD's contrastive stage on the digits: the quickstart with one thing changed.

    F=configs/digits_variants.py
    python -m clead_jax.main --config=$F:NAME
    python -m clead_jax.sweep --sweep.config=$F:NAME,$F:NAME ...    the README has the whole command

The names are the keys of VARIANTS, their fields and sources stand in the README's "Variants of the contrastive stage".
Those with "batch" keep the passes, and scale the learning rate with the batch.
"""

from clead_jax import config

DRAWN = "augmented(rotation=15,resized_crop=0.6,crop_padding=0)"
VARIANTS = {
    "clead": {},
    "scratch": {"pretrain.start": "scratch"},
    "supcon": {"pretrain.positives": "class"},
    # negatives
    "hardest": {"pretrain.loss": "info_nce(hardest=16)"},
    "reweighted": {"pretrain.loss": "info_nce(beta=1)"},
    "debiased": {"pretrain.loss": "info_nce(tau_plus=0.1)"},
    "triplet": {"pretrain.loss": "triplet(margin=0.2,hardest=1)"},
    "n-pair": {"pretrain.loss": "n_pair(l2=0.002)"},
    "bank": {"pretrain.bank": 1024},
    "moco": {"pretrain.bank": 1024, "pretrain.key_momentum": 0.99},
    "momentum": {"pretrain.key_momentum": 0.99},
    # labels that are not there
    "clusters": {"pretrain.pseudo_labels": "baseline", "pretrain.positives": "class"},
    "predicted": {
        "pretrain.pseudo_labels": "baseline",
        "pretrain.pseudo_labels_by": "head",
        "pretrain.positives": "class",
    },
    "targets": {"pretrain.pseudo_labels": "baseline", "pretrain.ascend": "online"},
    "goal": {"pretrain.goal": "likeliest"},
    "neighbours": {"pretrain.neighbours": "baseline", "pretrain.views": "clean,neighbour,pgd,cw"},
    # schedules
    "growing-eps": {"pretrain.schedules": "eps=linear(start=0,end=0.1,epochs=20)"},
    "growing-steps": {"pretrain.schedules": "steps=steps(values=1:2:4,epochs=20:40)"},
    "cooling": {"pretrain.schedules": "temperature=cosine(start=0.5,end=0.1)"},
    "fading": {"pretrain.views": f"{DRAWN},pgd,cw", "pretrain.schedules": "strength=linear(start=1,end=0)"},
    # batches
    "accumulate": {"pretrain.accumulate": 4},
    "batch-32": {"pretrain.batch_size": 32, "pretrain.lr": 0.1},
    "batch-64": {"pretrain.batch_size": 64, "pretrain.lr": 0.2},
    "batch-256": {"pretrain.batch_size": 256, "pretrain.lr": 0.8},
    # augmentations
    "drawn-view": {"pretrain.views": f"{DRAWN},pgd,cw"},
    "two-views": {"pretrain.views": f"clean,{DRAWN},pgd,cw"},
    "rotation": {"augment.rotation": 15.0},
    "crop-shift": {"augment.crop_shift": 2, "augment.crop_padding": 0},
    "blur": {"augment.blur": 0.5},
    "erasing": {"augment.erasing": 0.5},
    "resized-crop": {"augment.resized_crop": 0.6, "augment.crop_padding": 0},
    "color-jitter": {"augment.color_jitter": 0.5},
    # two-phase optimizer
    "adam": {"pretrain.optimizer": "adam", "pretrain.lr": 1e-3},
    "attacked-probe": {"probe.attack": "pgd"},
}


def get_config(variant="clead"):
    if variant not in VARIANTS:
        raise ValueError(f"configs/digits_variants.py:{variant}: it can be {', '.join(VARIANTS)}")
    cfg = config.preset(__file__, "quickstart.py")
    for path, value in VARIANTS[variant].items():
        section, _, field = path.rpartition(".")
        (cfg[section] if section else cfg)[field] = value
    return cfg
