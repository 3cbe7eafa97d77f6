"""The base config: every field there is, with its default and where that comes from. No jax is imported here.

A constant is the paper's (C-LEAD, arXiv 2510.27249; its section is named), or where the paper is silent the
literature's (its source is named), or "ours": then nothing but our judgement speaks for it. Radii and step sizes are
strings in units of the [0, 1] pixel range ("8/255", "0.1"); lists are comma-separated strings ("clean,pgd,cw"); an item
can carry settings of its own ("pgd(steps=10,eps=4/255)").
"""

from typing import Any

from ml_collections import ConfigDict


def base() -> ConfigDict:
    """The config every preset starts from: C-LEAD with a ResNet-18 on CIFAR-10, as the paper has it."""
    return ConfigDict(
        {
            "seed": 0,
            "stages": "baseline,pretrain,probe,evaluate,report",
            "defended": "probe",  # the stage whose model the report calls "with C-LEAD"
            "plugins": "",  # modules to import first: they register attacks, losses, backbones, data sets
            "data": {
                "name": "cifar10",  # digits, cifar10, cifar100, any prepared TFDS set, npz:FILE, folder:DIR
                "data_dir": "",  # where TFDS data lies; empty: the TFDS default
                "image_size": 0,  # resize to this many pixels a side; 0: as stored
                "validation": 0.1,  # share of train held out for every choice made during training; the size is ours
                "train_size": 0,  # class-balanced subset of train; 0: all
                "test_size": 0,
            },
            # Sec. 4: crop and flip. Four pixels: He et al. (arXiv 1512.03385, Sec. 4.2). No colours: Sec. 4 names none.
            "augment": {"crop_padding": 4, "flip": True, "color_jitter": 0.0, "grayscale": 0.0},
            "model": {
                "backbone": "resnet18",  # Table 1; resnet34 and resnet50 beside it
                "width": 64,  # He et al.
                "stem": "cifar",  # one 3x3, no pooling: SimCLR (arXiv 2002.05709, B.9); or "imagenet"
                "dtype": "float32",  # compute; parameters are float32 always
                "projection_dim": 128,  # Sec. 4
                "projection_hidden": 0,  # 0: as wide as the features (SimCLR, arXiv 2002.05709, Sec. 4.2)
            },
            # Eq. 2: an image with its PGD and its C&W version. Any registered attack, "clean" and "augmented".
            "views": "clean,pgd,cw",
            # The paper names neither norm, radius nor steps. Norm, radius, step size and random start: Madry et al.
            # (arXiv 1706.06083) on CIFAR-10. They make 7 steps; five is ours, cheap enough to train with.
            "train_attack": {"norm": "linf", "eps": "8/255", "step_size": "2/255", "steps": 5, "random_start": True},
            # The "without" column, unsaid. Batch, lr, momentum and decay: Wide ResNets (arXiv 1605.07146, Sec. 3), with
            # a cosine (arXiv 1608.03983) for their steps. 100 epochs: ours.
            "baseline": _training(epochs=100, batch_size=128, lr=0.1, weight_decay=5e-4),
            # The control: PGD adversarial training (arXiv 1706.06083), the baseline's recipe on attacked images. Its
            # decay of 5e-4 is also what "Bag of Tricks for Adversarial Training" (arXiv 2010.00467) finds best.
            "supervised": _training(epochs=100, batch_size=128, lr=0.1, weight_decay=5e-4) | {"attack": "pgd"},
            # Sec. 4: batch, SGD, momentum, lr, cosine. Unsaid: the decay (the baseline's), 200 epochs (ours; more costs
            # days), no warm-up (ours).
            "pretrain": _training(epochs=200, batch_size=512, lr=0.4, weight_decay=5e-4)
            | {
                "loss": "info_nce",
                "temperature": 0.1,  # Sec. 4
                "similarity": "cosine",  # or "euclidean" (negative distance); the paper names both
                "pairing": "anchor",  # Eq. 2: clean against each perturbed view; "all": every pair of views
                "positives": "instance",  # or "class" (SupCon, arXiv 2004.11362)
                "weights": "",  # one per perturbed view under "anchor"; empty: equal, the 1/2 and 1/2 of Eq. 2
                "ascend": "contrastive",  # what the training attacks climb; unsaid: see README
                "start": "baseline",  # unsaid: see README
                "online_lr": 0.001,  # of the gradient-stopped online head: Adam's own default (arXiv 1412.6980)
            },
            # Sec. 4: Adam, lr 1e-4, batch 128, backbone frozen. Unsaid: 100 epochs without decay, as MoCo's linear
            # classifiers (arXiv 1911.05722, Sec. 4.1); a constant rate (ours).
            "probe": _training(epochs=100, batch_size=128, lr=1e-4, optimizer="adam", schedule="constant")
            | {
                "start": "latest",  # or "best" by validation: a choice made with labels; unsaid, ours
                "augment": True,  # the linear layer sees crops and flips, or the plain images; unsaid: see README
            },
            # One stage, two heads, positives by class (arXiv 2412.19747), over `views`; the usual CIFAR recipe.
            "joint": _training(epochs=200, batch_size=128, lr=0.1, weight_decay=5e-4)
            | {
                "weight_ce": 1.0,  # cross entropy, of the classifier; 1, 0, 0 is plain training, 1, 1, 0 without margin
                "weight_supcon": 1.0,
                "weight_margin": 1.0,
                "margin_form": "margin_pairwise",  # any registered loss: margin_cosine, margin_hinge; see losses/margin
                "margin": 1.0,
                "temperature": 0.1,
                "ascend": "online",  # what attacks among the views climb; labels are used here anyway
                "start": "scratch",
            },
            # Choices made during training look at this many validation images only, never at the test split; by robust
            # accuracy, as Rice et al. (arXiv 2002.11569). How many, how often and ten steps are ours.
            "validation": {"every": 10, "num_examples": 1000, "attack": "pgd(steps=10)"},
            "evaluation": {
                # Side by side: images made on the undefended model ("paper"), attacks on the model itself ("whitebox"),
                # and "autoattack", which costs hundreds of passes an image: add it for a number to publish.
                "protocol": "paper,whitebox",
                "attacks": "fgsm,pgd,cw",  # Table 1; "autoattack" too
                "version": "standard",  # of autoattack; plus, rand
                "precision": "float32",  # "bfloat16": autoattack climbs a copy in bfloat16; float32 judges
                "budget": "",  # most time ("2h") or passes per image ("2000passes") of autoattack; empty: no limit
                "checks": True,  # doubt the numbers, on at most 128 images
                "save_images": False,  # all adversarial images, in evaluation/adversarial/
                # Unsaid. PGD-20 of 2/255 inside 8/255: Madry et al. on CIFAR-10. One start: ours.
                "norm": "linf",
                "eps": "8/255",
                "step_size": "2/255",
                "steps": 20,
                "restarts": 1,
                "split": "test",
                "num_examples": 0,  # 0: the whole split
                "which": "latest",  # checkpoint: latest, best (by validation), or the number of a saved step
                "batch_size": 256,  # no result depends on it; 0: autoattack takes the fastest, found by trying
                # Robust accuracy over eps. Radii and numbers of images are ours; the last radii should break any model.
                "curve_attack": "pgd",
                "curve": "0,1/255,2/255,4/255,6/255,8/255,12/255,16/255,32/255,64/255",
                "curve_examples": 1000,
                "distances": "",  # minimal-norm attacks to report distances of, e.g. "cw_l2"
                "distance_examples": 100,
            },
            "checkpoint": {"every": 5},  # epochs; the last is always kept
            "log": {"every": 50},  # steps between looks at the loss
        }
    )


def _training(
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float = 0.0,
    optimizer: str = "sgd",
    schedule: str = "cosine",
) -> dict[str, Any]:
    return {
        "epochs": epochs,
        "batch_size": batch_size,
        "optimizer": optimizer,
        "lr": lr,
        "momentum": 0.9,  # SGD only; Sec. 4
        "weight_decay": weight_decay,
        "schedule": schedule,
        "warmup_epochs": 0.0,
    }
