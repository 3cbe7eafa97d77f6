"""Every field of the config, with its type, its default and where that comes from. Imports no jax.

A default is the paper's (C-LEAD, arXiv 2510.27249; its section is named), or where the paper is silent the
literature's (its source is named), or "ours": our judgement alone. Radii and step sizes are in units of the [0, 1]
pixel range and may be written "8/255"; lists are strings, an item may have settings: "clean,pgd(steps=10,eps=4/255)".
"""

import os
import runpy
from dataclasses import dataclass, field
from typing import Any, ClassVar

from clead_jax.config.images import Augment, Data
from clead_jax.config.sections import Section
from clead_jax.config.transfer import Transfer
from clead_jax.core import spec

FILE_SOURCES = ("npz", "folder")  # data sets whose name holds a path


@dataclass
class Model(Section):
    """The network."""

    backbone: str = "resnet18"  # Table 1; resnet34 and resnet50 beside it
    width: int = 64  # He et al.
    stem: str = "cifar"  # one 3x3, no pooling: SimCLR (arXiv 2002.05709, B.9); or "imagenet"
    dtype: str = "float32"  # compute; parameters are float32 always
    projection_dim: int = 128  # Sec. 4
    projection_hidden: int = 0  # 0: as wide as the features (SimCLR, arXiv 2002.05709, Sec. 4.2)
    projection_layers: int = 2  # Sec. 4; 1: a linear map
    projection_norm: bool = False  # BatchNorm after each of them; off: ours
    remat: bool = False  # activations of residual blocks are computed again for gradients: less memory, more time


@dataclass
class TrainAttack(Section):
    """Settings of the attacks in training, unless an attack carries its own.

    The paper names neither norm, radius nor steps. Norm, radius, step size and random start: Madry et al.
    (arXiv 1706.06083) on CIFAR-10. They make 7 steps; five is ours, cheap enough to train with.
    """

    norm: str = "linf"
    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 5
    random_start: bool = True


@dataclass
class Stage(Section):
    """What every trained stage has, whatever its loss; `kind` names the subclass in config.json."""

    kind: ClassVar[str] = ""

    # Initial weights: fresh, or those of a stage ("baseline"), its best ("pretrain:best"), its average ("acl:ema").
    start: str = "scratch"
    fresh: str = ""  # parts of the network that do not come from `start`, e.g. "head"
    trains: str = "backbone,head"  # parts that are trained: backbone, projector, head; the rest stays as it is
    batch_stats: str = "frozen"  # of a backbone that is not trained; "reestimate": moved on, BatchNorm in train mode
    # Whose loss the attacks maximise: contrastive, partner, pairs, online, or that of a stage, its weights frozen. Or
    # embeddings move away from the "teacher"'s or the "student"'s own, one word for each part of `compares`.
    ascend: str = "online"
    goal: str = ""  # "likeliest": attacks lead to the likeliest class (or image) but the label, not just away from it
    attack_batch_norm: str = "eval"  # while attacked: running statistics, or "train": those of the attacked batch
    # Views are one batch to BatchNorm, or "apart", each its own, or "dual", attacked ones and others with an own copy.
    encoding: str = "together"
    pseudo_labels: str = ""  # a stage that says what the labels are, its weights as in `start`: "dynacl:momentum"
    pseudo_labels_by: str = "kmeans"  # by clusters of its features; "kmeans(of=projector)"; or by its "head"
    neighbours: str = ""  # a stage among whose nearest features the image of the view "neighbour" is drawn
    neighbour_count: int = 20  # how many those are; SCAN (arXiv 2005.12320, Sec. 3.1)
    perturb: str = ""  # the weights at which gradients are taken: "awp(gamma=0.01)"; empty: the weights themselves
    average: str = ""  # averaged weights beside the last ones: "ema(decay=0.999)", "swa(start=0.75)"
    epochs: int = 100
    batch_size: int = 128
    optimizer: str = "sgd"  # sgd, adam, adamw, lars; with settings: "lars(trust=0.02)"
    lr: float = 0.1
    momentum: float = 0.9  # SGD and LARS only; Sec. 4
    weight_decay: float = 0.0
    schedule: str = "cosine"  # or "constant", "steps(epochs=100:150,factor=0.1)"
    warmup_epochs: float = 0.0
    # Numbers that change in training: "eps=linear(start=0,end=8/255,epochs=10),steps=steps(values=2:4,epochs=5)". Those
    # of attacks (eps, step_size, steps) and of the loss (temperature ...), weight_<term>, strength of augmentations.
    schedules: str = ""
    accumulate: int = 1  # parts that a batch is encoded in, one after the other, to save memory; the loss sees all
    sync_batch_stats: bool = True  # BatchNorm in training sees the batch of all devices; false: each device its share

    def __setattr__(self, name: str, value: Any) -> None:
        """As `Section`; "latest" and "best" as `start` are short for those of pretrain."""
        short = {"latest": "pretrain", "best": "pretrain:best"} if name == "start" else {}
        super().__setattr__(name, short.get(value, value))


@dataclass
class Supervised(Stage):
    """A loss on the logits: plain and adversarial training, probes, fine-tuning.

    Batch, lr, momentum and decay (also best in "Bag of Tricks for Adversarial Training", arXiv 2010.00467): Wide
    ResNets (arXiv 1605.07146, Sec. 3), with a cosine (arXiv 1608.03983) for their steps. 100 epochs: ours.
    """

    kind: ClassVar[str] = "supervised"

    weight_decay: float = 5e-4
    attack: str = ""  # trains on images made by this attack; empty: on clean ones
    attacked: float = 1.0  # probability with which a batch is attacked; the others are clean
    views: str = ""  # several versions of each image ("clean,pgd(objective=kl)"), in place of `attack`
    strategy: str = ""  # chooses the settings of training_pgd in each step: "friendly(later=50:90)", "las_at"
    loss: str = "cross_entropy"  # any registered loss on logits: cross_entropy(smoothing=0.1), trades(beta=6)
    augment: bool = True  # crops and flips, or the plain images


@dataclass
class Contrastive(Stage):
    """A loss of embeddings; a class head learns beside it, gradient-stopped. Phase 1 of C-LEAD, and its neighbours.

    Sec. 4: batch, SGD, momentum, lr, cosine. Unsaid: the decay (the baseline's), 200 epochs and no warm-up (ours).
    """

    kind: ClassVar[str] = "contrastive"

    start: str = "baseline"  # unsaid: see README
    trains: str = "backbone,projector,head"
    ascend: str = "contrastive"  # unsaid: see README
    epochs: int = 200
    batch_size: int = 512
    lr: float = 0.4
    weight_decay: float = 5e-4
    views: str = ""  # in place of `config.views`; "augmented(color_jitter=0.5)" has settings of `augment` of its own
    loss: str = "info_nce"  # any registered loss of embeddings: distillation(attacked_weight=8), rocl
    teacher: str = ""  # a stage whose frozen embedding of the image is one more view to the loss, the last
    compares: str = "projector"  # whose outputs the loss compares: projector, backbone (the features), or both
    starts: str = ""  # views that attacks start from and the network does not see: "augmented,augmented"
    fade_every: int = 0  # epochs, after each of which augmentations of their own grow weaker (DynACL); 0: never
    key_momentum: float = 0.0  # decay of a momentum encoder, whose embeddings are keys behind the views; 0: none
    bank: int = 0  # embeddings of past batches (with a momentum encoder its keys) as further negatives; 0: none
    temperature: float = 0.1  # Sec. 4
    similarity: str = "cosine"  # or "euclidean" (negative distance); the paper names both
    pairing: str = "anchor"  # Eq. 2: clean against each perturbed view; "simclr_anchor"; "all": every pair of views
    positives: str = "instance"  # or "class" (SupCon, arXiv 2004.11362)
    weights: str = ""  # one per perturbed view, under "all" per view; empty: equal, the 1/2 and 1/2 of Eq. 2
    online_lr: float = 0.001  # of the gradient-stopped online head: Adam's own default (arXiv 1412.6980)


@dataclass
class Joint(Stage):
    """One stage, two heads, positives by class (arXiv 2412.19747), over `config.views`; the usual CIFAR recipe."""

    kind: ClassVar[str] = "joint"

    trains: str = "backbone,projector,head"
    epochs: int = 200
    weight_decay: float = 5e-4
    weight_ce: float = 1.0  # cross entropy, of the classifier; 1, 0, 0 is plain training, 1, 1, 0 without margin
    weight_supcon: float = 1.0  # ours, as the other two: equal weights
    weight_margin: float = 1.0
    margin_form: str = "margin_pairwise"  # any registered loss: margin_cosine, margin_hinge; see losses/margin
    margin: float = 1.0  # ours: an angle of 60 degrees
    temperature: float = 0.1  # ours: that of C-LEAD


KINDS: dict[str, type[Stage]] = {kind.kind: kind for kind in (Supervised, Contrastive, Joint)}


@dataclass
class Validation(Section):
    """Choices made during training look at this many validation images only, never at the test split.

    By robust accuracy, as Rice et al. (arXiv 2002.11569). How many, how often and ten steps are ours.
    """

    every: int = 10
    num_examples: int = 1000
    attack: str = "pgd(steps=10)"


@dataclass
class Evaluation(Section):
    """What is measured, and how hard."""

    # Side by side: images made on the undefended model ("paper"), attacks on the model itself ("whitebox"), and
    # "autoattack", which costs hundreds of passes an image: add it for a number to publish.
    protocol: str = "paper,whitebox"
    attacks: str = "fgsm,pgd,cw"  # Table 1; "autoattack" too
    transfer: Transfer = field(default_factory=Transfer)
    version: str = "standard"  # of autoattack; plus, rand, fast, strongest
    precision: str = "float32"  # "bfloat16": autoattack differentiates a copy in bfloat16; float32 judges
    budget: str = ""  # most time ("2h") or passes per image ("2000passes") of the attacks; empty: no limit
    checks: bool = True  # sanity checks of the numbers, on at most 128 images
    save_images: bool = False  # all adversarial images, in evaluation/adversarial/
    # Unsaid. PGD-20 of 2/255 inside 8/255: Madry et al. on CIFAR-10. One start: ours.
    norm: str = "linf"
    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: int = 20
    restarts: int = 1
    split: str = "test"
    num_examples: int = 0  # 0: the whole split
    which: str = "latest"  # checkpoint: latest, best (by validation), or the number of a saved step
    weights: str = ""  # averaged weights of the checkpoint by their name, "ema" or "swa"; empty: the last ones
    batch_size: int = 256  # no result depends on it; 0: autoattack takes the fastest, found by trying
    # Robust accuracy over eps. Radii and numbers of images are ours; the last radii should break any model.
    curve_attack: str = "pgd"
    curve: str = "0,1/255,2/255,4/255,6/255,8/255,12/255,16/255,32/255,64/255"
    curve_examples: int = 1000
    distances: str = ""  # minimal-norm attacks to report distances of, e.g. "cw_l2"
    distance_examples: int = 100
    corruptions: bool = False  # the 15 common corruptions at 5 severities (arXiv 1903.12261); needs that extra
    corruption_examples: int = 1000  # ours: 75 versions of each


@dataclass
class Every(Section):
    """How often something is done."""

    every: int


@dataclass
class Config(Section):
    """Everything. A new stage is one more attribute: `cfg.finetune = Supervised(start="pretrain", fresh="head")`."""

    seed: int = 0
    stages: str = "baseline,pretrain,probe,evaluate,report"  # trained in this order
    defended: str = "probe"  # the stage whose model the report calls "with C-LEAD"
    plugins: str = ""  # modules to import first: they register attacks, losses, backbones, data sets
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    # Eq. 2: an image, its PGD and C&W versions. Any attack, "clean", "augmented"; "static(pgd)": made once, beforehand.
    views: str = "clean,pgd,cw"
    train_attack: TrainAttack = field(default_factory=TrainAttack)
    baseline: Supervised = field(default_factory=Supervised)  # the "without" column; unsaid how it is trained
    # The control: PGD adversarial training (arXiv 1706.06083), the baseline's recipe on attacked images.
    supervised: Supervised = field(default_factory=lambda: Supervised(attack="pgd"))
    pretrain: Contrastive = field(default_factory=Contrastive)
    # Phase 2. Sec. 4: Adam, lr 1e-4, batch 128, backbone frozen. Unsaid: 100 epochs without decay, as MoCo's linear
    # classifiers (arXiv 1911.05722, Sec. 4.1); a constant rate (ours); what the linear layer sees: see README.
    probe: Supervised = field(
        default_factory=lambda: Supervised(
            "pretrain", fresh="head", trains="head", optimizer="adam", lr=1e-4, weight_decay=0, schedule="constant"
        )
    )
    joint: Joint = field(default_factory=Joint)
    validation: Validation = field(default_factory=Validation)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoint: Every = field(default_factory=lambda: Every(5))  # epochs; the last is always kept
    log: Every = field(default_factory=lambda: Every(50))  # steps between looks at the loss

    def __setattr__(self, name: str, value: Any) -> None:
        """As `Section`; a stage may have any name."""
        if isinstance(value, Stage) and not hasattr(type(self), name):
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)


def base() -> Config:
    """The config every preset starts from: C-LEAD with a ResNet-18 on CIFAR-10, as the paper has it."""
    return Config()


def preset(neighbour: str, name: str, *arguments: Any) -> Config:
    """The config of another file in the folder of `neighbour`, for presets that build on one another."""
    return runpy.run_path(os.path.join(os.path.dirname(neighbour), name))["get_config"](*arguments)


def stages_of(cfg: Config) -> dict[str, Stage]:
    """All trained stages that a config describes, by name."""
    return {name: cfg[name] for name in cfg if isinstance(cfg[name], Stage)}


def trained_stages(cfg: Config) -> list[str]:
    """Those of them that are run, as `cfg.stages` orders them."""
    return [name for name in spec.items(cfg.stages) if name in stages_of(cfg)]
