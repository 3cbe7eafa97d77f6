"""C-LEAD (arXiv 2510.27249), Table 1, ResNet-50 on CIFAR-10.

    python -m clead_jax.main --config=configs/resnet50.py --config.data.data_dir=DIR

Full-length numbers: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"": "FGSM 55.28, PGD 68.67, C&W 59.85 (the paper, Table 1, first figures)"}


def get_config():
    cfg = config.base()
    cfg.model.backbone = "resnet50"
    return cfg
