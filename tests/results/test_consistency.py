"""Results that contradict their records, or themselves, are refused by the report and measured again by `evaluate`."""

import copy
import json
import shutil

import numpy as np
import pytest
from test_read import OLD

from clead_jax.reporting import compare_runs, page
from clead_jax.results import files, forms, read
from clead_jax.results.store import Store


@pytest.fixture
def run(tmp_path):
    shutil.copytree(OLD / "evaluation", tmp_path / "run" / "evaluation")
    shutil.copy(OLD / "config.json", tmp_path / "run")
    return tmp_path / "run"


def set_in(tree, path, value):
    *path, last = path
    for key in path:
        tree = tree[key]
    tree[last] = value(tree[last]) if callable(value) else value


AUTOATTACK = ("protocols", "autoattack", "baseline")
FORGED = {
    "an attack above clean": (("models", "defended", "accuracy", "fgsm"), 0.9),
    "a better attack": (("models", "defended", "accuracy", "pgd"), 0.0625),
    "a better clean one": (("models", "baseline", "accuracy", "clean"), 0.99),
    "a better worst case": (("models", "baseline", "accuracy", "worst_case"), 0.09),
    "a rising cascade": ((*AUTOATTACK, "accuracy", "square"), 0.03125),
    "a better cascade": ((*AUTOATTACK, "accuracy"), lambda old: dict.fromkeys(old, 0.09375)),
    "a better transfer": (("protocols", "paper", "defended", "accuracy", "cw"), 0.5),
    "an interval elsewhere": (("models", "baseline", "interval95", "cw"), [0.5, 0.6]),
    "a curve of other radii": (("curves", "eps"), lambda old: [*old, 0.5]),
    "a curve of nobody": (("curves", "accuracy"), lambda old: old | {"ghost": old["baseline"]}),
    "more images": (("dataset", "num_examples"), 10_000),
    "features of nobody": (("clusters",), lambda old: old | {"ghost": old["baseline"]}),
}


@pytest.mark.parametrize(("path", "value"), FORGED.values(), ids=FORGED)
def test_forged_numbers_are_refused(run, path, value):
    file = run / "evaluation/results.json"
    results = json.loads(file.read_text())
    set_in(results, path, value)
    file.write_text(json.dumps(results))
    for door in (page.build, page.table, lambda run: compare_runs.read([run])):
        with pytest.raises(ValueError, match=r"results\.json contradicts ") as error:
            door(run / "evaluation" if door is page.table else run)
        assert "\n" not in str(error.value) and "evaluate again" in str(error.value)


def test_without_records_the_numbers_are_compared_among_themselves(run):
    (run / "evaluation/per_example.npz").unlink()
    read.read(run)
    file = run / "evaluation/results.json"
    results = json.loads(file.read_text())
    results["models"]["defended"]["accuracy"]["fgsm"] = 0.2
    results["models"]["defended"]["interval95"]["fgsm"] = [0.1, 0.3]
    file.write_text(json.dumps(results))
    with pytest.raises(ValueError, match=r"'defended/fgsm' \(its accuracy 0.2 is above the clean one"):
        read.read(run)


CHANGED = {
    "turned": lambda a: ~a,
    "moved": lambda a: np.roll(a, 1),  # the same accuracy, other images
    "floats": lambda a: a.astype(float),
    "fewer": lambda a: a[:-1],
}


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_foreign_records_are_refused(run, change):
    path = run / "evaluation/per_example.npz"
    header = {key: files.load_json(run / "evaluation/results.json")[key] for key in ("dataset", "threat_model")}
    arrays = files.load_arrays(path)
    Store(header, arrays["index"], arrays["label"], run / "evaluation").save()  # now there are digests
    read.read(run)
    files.save_arrays(path, arrays | {"baseline/cw": change(arrays["baseline/cw"])})
    with pytest.raises(ValueError, match=r"baseline/cw|rows"):
        read.read(run)


@pytest.mark.parametrize("name", ["baseline/cw", "defended/paper/fgsm", "defended/apgd_t"])
def test_evaluate_measures_again_what_is_not_the_record_of_the_results(run, name, caplog):
    path = run / "evaluation/per_example.npz"
    header = {key: files.load_json(run / "evaluation/results.json")[key] for key in ("dataset", "threat_model")}
    arrays = files.load_arrays(path)
    open_store = lambda: Store(header, arrays["index"], arrays["label"], run / "evaluation")
    before = open_store()
    before.save()
    files.save_arrays(path, {k: ~a if k == name else a for k, a in arrays.items()})
    after = open_store()
    lost = before.results["measured"].keys() - after.results["measured"].keys()
    measured = {"defended/apgd_t": "defended/autoattack"}.get(name, name)
    assert name not in after.records and (measured in lost or name.count("/") == 2)
    assert lost <= {measured}
    after.save()
    read.read(run)  # what is left agrees
    path.unlink()
    assert not {"baseline/clean", "defended/pgd"} & open_store().results["measured"].keys()


def test_the_digests_do_not_change_what_is_measured(run):
    found = files.load_json(run / "evaluation/results.json", forms.RESULTS)
    arrays = files.load_arrays(run / "evaluation/per_example.npz", forms.PER_EXAMPLE)
    header = {key: found[key] for key in ("dataset", "threat_model")}
    store = Store(header, arrays["index"], arrays["label"], run / "evaluation")
    store.save()
    again = copy.deepcopy(files.load_json(run / "evaluation/results.json"))
    assert {k: v for k, v in again.items() if k not in ("digests", "measured")} == found
