"""C-LEAD (arXiv 2510.27249), Table 1, ResNet-18 on CIFAR-10. The base config is this one; see config/schema.py.

    python -m clead_jax.main --config=configs/resnet18.py --config.data.data_dir=DIR

Full-length numbers: not measured yet.
"""

from clead_jax import config

PUBLISHED = {"": "FGSM 25.78, PGD 31.27, C&W 21.55 (the paper, Table 1, first figures)"}


def get_config():
    return config.base()
