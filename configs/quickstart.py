"""C-LEAD in minutes on a laptop: Eq. 2 on scikit-learn's handwritten digits, a tiny ResNet, no download.

    python -m clead_jax.main --config=configs/quickstart.py

About 2 minutes on 2 CPU cores; the README has the table. AutoAttack fast: 71.7 ± 3.7 %, three seeds, each on one
core (README, "The opponents on the digits").
"""

from clead_jax import config


def get_config():
    cfg = config.base()
    cfg.data.name = "digits"
    cfg.augment.update({"crop_padding": 1, "flip": False})  # a mirrored 2 is no digit
    cfg.model.update({"backbone": "tiny", "width": 16})
    cfg.train_attack.update({"eps": 0.1, "step_size": 0.04, "steps": 4})
    cfg.baseline.update({"epochs": 30, "batch_size": 64})
    cfg.pretrain.update({"epochs": 60, "batch_size": 128, "start": "baseline", "online_lr": 0.01})
    cfg.probe.update({"epochs": 30, "batch_size": 64, "lr": 0.01, "schedule": "cosine", "augment": False})
    cfg.validation.update({"every": 10, "num_examples": 128})
    cfg.evaluation.update({"eps": 0.1, "step_size": 0.025, "batch_size": 128})
    cfg.evaluation.update({"curve": "0,0.025,0.05,0.1,0.15,0.2,0.3", "curve_examples": 200})
    cfg.checkpoint.every = 10
    return cfg
