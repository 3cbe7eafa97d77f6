"""C-LEAD (arXiv 2510.27249), Table 1, ResNet-34 on CIFAR-10.

    python -m clead_jax.main --config=configs/resnet34.py --config.data.data_dir=DIR

Full-length numbers: not measured yet.
"""

from clead_jax import config


def get_config():
    cfg = config.base()
    cfg.model.backbone = "resnet34"
    return cfg
