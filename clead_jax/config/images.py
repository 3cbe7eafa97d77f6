"""Sections of the config on images: which they are, and how those to train on are augmented. See `schema`."""

from dataclasses import dataclass

from clead_jax.config.sections import Section


@dataclass
class Data(Section):
    """Which images."""

    name: str = "cifar10"  # digits, cifar10, cifar100, any prepared TFDS set, npz:FILE, folder:DIR
    data_dir: str = ""  # where TFDS data lies; empty: the TFDS default
    image_size: int = 0  # resize to this many pixels a side; 0: as stored
    validation: float = 0.1  # share of train held out for every choice made during training; the size is ours
    train_size: int = 0  # class-balanced subset of train; 0: all
    test_size: int = 0
    classes: int = 0  # of data without labels: how many clusters pseudo-labels are to tell apart
    # Bytes of training images that every device holds, and the host in memory. More are read from disk batch by batch;
    # 4 GB, ours: 5 % of a GPU of 80 GB, 20 times CIFAR-10.
    resident_limit: int = 4_000_000_000
    extra: str = ""  # more images for contrastive stages, as `name`; labels that they may have are not read
    extra_share: float = 0.5  # of every batch of such a stage; ours


@dataclass
class Augment(Section):
    """Sec. 4: crop and flip. Four pixels: He et al. (arXiv 1512.03385, Sec. 4.2). No colours: Sec. 4 names none."""

    crop_padding: int = 4
    padding: str = "black"  # or "reflect"
    flip: bool = True
    color_jitter: float = 0.0
    grayscale: float = 0.0
    hue: float = 0.0
    resized_crop: float = 0.0  # least share of the area that a random window keeps; 0: no such crop
    crop_shift: int = 0  # CropShift (arXiv 2301.09879) of up to so many pixels
    rotation: float = 0.0  # degrees, at most; off: ours
    blur: float = 0.0  # probability, SimCLR's (arXiv 2002.05709, appendix A)
    erasing: float = 0.0  # probability of a black rectangle (arXiv 1708.04896)
