"""Values, checks and the fields a stage depends on."""

import json
import subprocess
import sys

import pytest

from clead_jax import config
from clead_jax.core import spec


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.1", 0.1), (0.1, 0.1), ("1e-3", 1e-3), ("0", 0.0)])
def test_number_reads(text, value):
    assert spec.number(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "eight", "8/0", "nan", "inf", "1/2/3", "8//255", "None"])
def test_number_refuses(text):
    with pytest.raises(ValueError, match="eps"):
        spec.number(text, "eps")


def test_items_keeps_settings_together():
    assert spec.items("clean, pgd(steps=10,eps=4/255) ,cw") == ("clean", "pgd(steps=10,eps=4/255)", "cw")
    assert spec.items("") == ()


def test_spec():
    assert spec.parse("pgd(steps=10,eps=4/255)") == ("pgd", {"steps": "10", "eps": "4/255"})
    for wrong in ("pgd(steps)", "pgd(", "", "pgd steps"):
        with pytest.raises(ValueError):
            spec.parse(wrong)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("stages", "baseline,pretrian", "pretrian"),
        ("pretrain.ascend", "labels", "contrastive, partner, pairs, online, teacher, student, baseline"),
        ("evaluation.eps", "8", r"\[0, 1\]"),
        ("train_attack.eps", "-0.1", r"\[0, 1\]"),
        ("evaluation.curve", "0,2", r"\[0, 1\]"),
        ("pretrain.epochs", 0, "above 0"),
        ("pretrain.temperature", 0.0, "above 0"),
        ("data.validation", 1.0, "share of train"),
        ("views", "", "views"),
        ("data.name", "npz:", "npz:FILE"),
        ("data.name", "folder", "folder:DIR"),
        ("evaluation.which", "newest", "latest, best, or the number of a saved step"),
        ("evaluation.which", "-4", "latest, best, or the number of a saved step"),
    ],
)
def test_validate_names_field_and_remedy(field, value, said):
    cfg = config.base()
    section, _, name = field.rpartition(".")
    (cfg[section] if section else cfg)[name] = value
    with pytest.raises(ValueError, match=said) as caught:
        config.validate(cfg)
    assert field in str(caught.value) and "\n" not in str(caught.value)


def test_a_step_may_be_chosen_by_its_number():
    cfg = config.base()
    cfg.evaluation.which = "400"
    config.validate(cfg)


def test_an_attack_in_training_is_a_field_that_decides_the_weights():
    cfg = config.base()
    assert "train_attack.eps" in config.stage_fields(cfg, "supervised")
    cfg.supervised.attack = ""
    assert "train_attack.eps" not in config.stage_fields(cfg, "supervised")
    cfg.probe.attack = "pgd"
    assert "train_attack.eps" in config.stage_fields(cfg, "probe")


def test_a_new_stage_is_one_attribute(tmp_path):
    cfg = config.base()
    cfg.finetune = config.Supervised(start="pretrain:best", fresh="head", epochs=3)
    cfg.stages = "pretrain,finetune"
    config.validate(cfg)
    assert config.trained_stages(cfg) == ["pretrain", "finetune"]
    assert config.origin(cfg, "finetune") == ("pretrain", "best")
    fields = config.stage_fields(cfg, "finetune")
    assert fields["finetune.epochs"] == 3 and "pretrain.temperature" in fields and "baseline.lr" in fields
    config.save(cfg, str(tmp_path), "mine")
    restored, _ = config.restore(str(tmp_path))
    assert isinstance(restored.finetune, config.Supervised) and config.flatten(restored) == config.flatten(cfg)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"start": "pretrian"}, "finetune.start is 'pretrian'; it can be scratch, or one of baseline"),
        ({"start": "finetune"}, "finetune.start is 'finetune'"),
        ({"start": "pretrain:newest"}, "finetune.start is 'pretrain:newest'"),
        ({"trains": "hed"}, "finetune.trains is 'hed'; its parts can be backbone, projector, head"),
        ({"trains": ""}, "finetune.trains is empty"),
        ({"fresh": "heads"}, "finetune.fresh is 'heads'"),
        ({"ascend": "labels"}, "finetune.ascend is 'labels'"),
    ],
)
def test_what_a_stage_cannot_be(change, said):
    cfg = config.base()
    cfg.finetune = config.Supervised(start="pretrain")
    cfg.finetune.update(change)
    with pytest.raises(ValueError, match=said):
        config.validate(cfg)


def test_stages_that_start_from_each_other_are_refused():
    cfg = config.base()
    cfg.baseline.start = "probe"
    with pytest.raises(ValueError, match="leads back to baseline: baseline <- probe <- pretrain <- baseline"):
        config.validate(cfg)


@pytest.mark.parametrize(
    ("section", "field", "value", "error", "said"),
    [
        ("pretrain", "epoch", 3, AttributeError, "did you mean 'epochs'"),
        ("pretrain", "epochs", "three", TypeError, "epochs is 'three'; it must be of type int"),
        ("pretrain", "epochs", 1.5, TypeError, "epochs is 1.5"),
        ("augment", "flip", 1, TypeError, "flip is 1"),
        ("train_attack", "eps", "eight", ValueError, "eps: 'eight' is no number"),
    ],
)
def test_fields_are_typed_where_a_preset_sets_them(section, field, value, error, said):
    with pytest.raises(error, match=said):
        config.base()[section][field] = value


def test_a_radius_may_be_written_as_grey_levels():
    cfg = config.base()
    cfg.train_attack.update({"eps": "4/255", "step_size": 1})
    assert (cfg.train_attack.eps, cfg.train_attack.step_size) == (4 / 255, 1.0)


def test_probe_start_as_earlier_versions_wrote_it():
    cfg = config.base()
    cfg.probe.start = "best"
    assert config.origin(cfg, "probe") == ("pretrain", "best")
    cfg.probe.start = "latest"
    assert cfg.probe == config.base().probe


def test_fields_of_an_earlier_version_are_read_as_they_were_meant():
    saved = config.stage_fields(config.base(), "probe")
    old = {k: v for k, v in saved.items() if k.split(".")[-1] not in ("trains", "fresh", "average", "views", "loss")}
    old |= {"train_attack.eps": "8/255", "probe.start": "latest", "pretrain.loss": "info_nce"}
    assert config.changed(config.fields_then(old, config.base(), "probe"), saved) == ""
    old["train_attack.eps"] = "4/255"
    assert "train_attack.eps" in config.changed(config.fields_then(old, config.base(), "probe"), saved)


def test_stage_fields_follow_dependencies():
    cfg = config.base()
    cfg.pretrain.start = "scratch"
    probe = config.stage_fields(cfg, "probe")
    assert "pretrain.temperature" in probe and "train_attack.eps" in probe
    assert not any(k.startswith(("evaluation", "baseline", "checkpoint", "log")) or k == "stages" for k in probe)
    assert not any(k.startswith("train_attack") for k in config.stage_fields(cfg, "baseline"))
    cfg.pretrain.start = "baseline"
    assert "baseline.lr" in config.stage_fields(cfg, "probe")


def test_changed_names_old_and_new():
    assert config.changed({"a": 1, "b": 2}, {"a": 1, "b": 3}) == "b: 2 -> 3"
    assert config.changed({"a": 1}, {"a": 1}) == ""


@pytest.mark.parametrize("path", ["mine.npz", "run/mine.npz", "elsewhere/mine.npz"])
def test_save_holds_no_path_and_finds_what_lies_beside(tmp_path, path):
    cfg = config.base()
    cfg.data.update({"name": f"npz:{tmp_path}/{path}", "data_dir": str(tmp_path)})
    workdir = tmp_path / "run"
    workdir.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / path).touch()
    config.save(cfg, str(workdir), "mine", fingerprint="0123")
    saved = json.loads((workdir / "config.json").read_text())
    assert (saved["config"]["data"]["name"], saved["config"]["data"]["data_dir"]) == ("npz:mine.npz", "")
    restored, name = config.restore(str(workdir))
    found = workdir / "mine.npz" if path.startswith("elsewhere") else tmp_path / path  # the first is not there
    assert name == "mine" and restored.data.name == f"npz:{found}"
    assert config.io.saved_fingerprint(str(workdir)) == "0123"
    cfg.data.update({"data_dir": "", "name": restored.data.name})
    assert config.flatten(restored) == config.flatten(cfg)


def test_restore_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json"):
        config.restore(str(tmp_path))


def test_nearest_fields():
    assert "pretrain.epochs" in config.nearest("pretrain.epoch", config.base())
    assert "pretrain.temperature" in config.nearest("temperature", config.base())


def test_presets_are_valid_and_carry_the_papers_values():
    program = (
        "import runpy, glob, sys\n"
        "from clead_jax import config\n"
        "for f in sorted(glob.glob('configs/*.py')):\n"
        "    config.validate(runpy.run_path(f)['get_config']())\n"
        "c = runpy.run_path('configs/resnet50.py')['get_config']()\n"
        "p = c.pretrain\n"
        "assert (p.temperature, c.model.projection_dim, p.batch_size, p.optimizer, p.momentum, p.lr, p.schedule) == "
        "(0.1, 128, 512, 'sgd', 0.9, 0.4, 'cosine')\n"
        "q = c.probe\n"
        "assert (q.optimizer, q.lr, q.batch_size, c.model.backbone) == ('adam', 1e-4, 128, 'resnet50')\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_setting_can_be_a_list():
    text = "autoattack(attacks=pgd(steps=10,eps=4/255), square(queries=9),fgsm)"
    assert spec.items(f"fgsm,{text},cw") == ("fgsm", text, "cw")
    name, settings = spec.parse(text)
    assert (name, spec.items(settings["attacks"])) == (
        "autoattack",
        ("pgd(steps=10,eps=4/255)", "square(queries=9)", "fgsm"),
    )
    assert spec.parse("mine(a=1,b=x,y,c=2)")[1] == {"a": "1", "b": "x,y", "c": "2"}
    with pytest.raises(ValueError, match="'x' is no setting; write name=value"):
        spec.parse("mine(x,a=1)")
