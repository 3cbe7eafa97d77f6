"""C-LEAD (arXiv 2510.27249), Table 1, ResNet-34 on CIFAR-10.

    python -m clead_jax.main --config=configs/resnet34.py --config.data.data_dir=DIR

Full-length numbers: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"": "FGSM 53.23, PGD 61.01, C&W 58.66 (the paper, Table 1, first figures)"}


def get_config():
    cfg = config.base()
    cfg.model.backbone = "resnet34"
    return cfg
