"""C-LEAD as its authors ran it: settings, as facts, from the scripts that they released in 2026 (no code of theirs).

    python -m clead_jax.main --config=configs/clead_authors.py:resnet50 --config.data.data_dir=DIR
    python -m clead_jax.main --config=configs/clead_authors.py:digits              minutes, no download

Also :resnet34 and :resnet18. Their Table 1, three depths without and with, in one command; the natural ResNet-34 makes
the images for all of them:

    F=configs/clead_authors.py; W=runs/table1
    python -m clead_jax.sweep --sweep.config=$F:resnet34,$F:resnet50,$F:resnet18 --workdir=$W \\
      --config.evaluation.transfer.source=$W/config=clead_authors-resnet34_seed=0:baseline --config.data.data_dir=DIR

The text of the paper is in resnet18.py, resnet34.py, resnet50.py. What differs here: views made once, on the
undefended network (PGD of 3 steps of 3/255, and C&W in L2 with c = 1, 50 steps and no search), kept as 8 bits; the
loss with the clean image as the only anchor and 2 B - 1 terms below; a linear projector; decay 1e-4; a probe by SGD
with batch statistics re-estimated; attacks made on another, undefended network. "-fgsm" (":resnet34-fgsm") is their
variant in which a batch of the probe is, with probability 1/2, one of FGSM images of the undefended network: its probe
sees attacks of the kind that it is tested under. White-box attacks and AutoAttack stand beside all of it.

Where ours differs. Their data set of three views is not in the release: ours augments a stored view by crop and flip,
as the clean one (theirs may crop, jitter and grey too), and the attack sees the plain image. Rates fall by a cosine,
theirs in the supervised start when the accuracy on test images no longer rises. They keep the epoch that is best on
test images, we the last. Their ResNet-18 is ImageNet's with its 1000 outputs as features; ours ends before that layer,
for one linear map after another gives a linear head or projector nothing more to express. All inputs are normalised;
theirs are not in the probe, though its backbone was trained on such. Our C&W lets the step fall by a cosine.

Passes an image: 3 an epoch of phase 1, and 53 once for its views. Accuracies, digits and full length: not measured yet.
"""

from clead_jax import config

DEPTHS = ("resnet18", "resnet34", "resnet50")
CW = "cw_l2(c=1,steps=50,rounds=1,learning_rate=0.01)"


def get_config(variant="resnet50"):
    depth, _, probe = variant.partition("-")
    if depth not in (*DEPTHS, "digits") or probe not in ("", "fgsm"):
        raise ValueError(f"configs/clead_authors.py:{variant}: it can be {', '.join(DEPTHS)}, digits, each with -fgsm")
    digits = depth == "digits"
    cfg = config.preset(__file__, "quickstart.py") if digits else config.base()
    pgd = f"pgd(steps=3,step_size={'0.0375' if digits else '3/255'})"  # 3/8 of the radius
    cfg.views = f"clean,static({pgd}),static({CW})"
    cfg.model.projection_layers = 1
    cfg.pretrain.update({"ascend": "baseline", "pairing": "simclr_anchor", "weight_decay": 1e-4})
    cfg.probe.update({"optimizer": "sgd", "weight_decay": 5e-4, "batch_stats": "reestimate"})
    if probe:
        cfg.probe.update({"attack": "fgsm", "ascend": "baseline", "attacked": 0.5})
    if digits:
        cfg.probe.lr = 0.1
    else:
        cfg.model.backbone, cfg.model.stem = depth, "imagenet" if depth == "resnet18" else "cifar"
        cfg.baseline.update({"epochs": 70, "lr": 0.01})
        cfg.pretrain.epochs = 500
        cfg.probe.update({"epochs": 50, "lr": 0.1, "schedule": "steps(epochs=15:30:45,factor=0.5)"})
    radius, half = ("0.1", "0.05") if digits else ("8/255", "4/255")
    cfg.evaluation.attacks = f"fgsm,pgd,cw,fgsm(eps={half}),pgd(eps={half}),cw(eps={half}),autoattack(version=fast)"
    cfg.evaluation.transfer.update({"attacks": f"fgsm,{pgd},cw,{CW}", "eps": f"{radius},{half}"})
    return cfg
