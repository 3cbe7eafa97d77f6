"""The suites that AutoAttack stands for, and what few classes make of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import clead_jax
from clead_jax.attacks import autoattack, mm
from clead_jax.core.types import NamedAttack
from clead_jax.results import store


@pytest.mark.parametrize("classes", [2, 3, 4, 10, 200])
@pytest.mark.parametrize("version", autoattack.VERSIONS)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_attacks_of_every_version(version, norm, classes):
    attacks, notes = autoattack.autoattack(version, norm, 0.1, classes)
    assert [a.name for a in attacks] == list(autoattack.VERSIONS[version])
    for attack in attacks:
        assert isinstance(attack, NamedAttack) and attack.cfg.norm == norm and attack.cfg.eps == attack.radius == 0.1
        if attack.name in ("apgd_t", "fab_t", "mm"):
            assert attack.cfg.targets == min(5 if (attack.name, norm) == ("apgd_t", "l1") else 9, classes - 1)
        logits = jax.ShapeDtypeStruct((4, classes), np.float32)
        target = jax.ShapeDtypeStruct((4,), np.int32)
        jax.eval_shape(attack.objective, logits, target)  # DLR refuses too few classes
    assert bool(notes) == (classes < 3 or (classes < 10 and version != "rand"))


def test_the_standard_version_is_the_published_one():
    """Croce and Hein (arXiv 2003.01690), section 5: 100 steps, 9 targets, 5000 queries, restarts as in their code."""
    attacks, _ = autoattack.autoattack("standard", "linf", 8 / 255, 10)
    of = {named.name: named.cfg for named in attacks}
    assert list(of) == ["apgd_ce", "apgd_t", "fab_t", "square"]
    assert (of["apgd_ce"].steps, of["apgd_ce"].restarts) == (100, 1)
    assert (of["apgd_t"].steps, of["apgd_t"].targets, of["fab_t"].steps, of["fab_t"].targets) == (100, 9, 100, 9)
    assert of["square"].queries == 5000 and autoattack.autoattack("rand", "linf", 0.1, 10)[0][0].cfg.eot == 20


@pytest.mark.parametrize("version", ["strong", "Standard"])
def test_an_unknown_version_is_named(version):
    with pytest.raises(ValueError, match=f"{version}.*standard"):
        autoattack.autoattack_version("autoattack", version)


def total(version, classes, norm="linf"):
    """Forward equivalents of an image that withstands all."""
    attacks, _ = autoattack.autoattack(version, norm, 0.1, classes)
    return sum(forward + 2 * backward for forward, backward in (named.passes(classes) for named in attacks))


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [10, 20, 100, 1000])
def test_fast_costs_an_eighth_of_standard(classes, norm):
    assert total("standard", classes, norm) == 11740
    assert 8 * total("fast", classes, norm) <= total("standard", classes, norm)
    assert total("fast", 10) == 3 * (51 + 51 + 9 * 2 * 20) + 1
    assert total("fast", 100) == total("fast", 10) + 2 * 30  # the order of 30 candidates


def test_strongest_holds_fast_and_standard():
    of = {v: [a.name for a in autoattack.autoattack(v, "linf", 0.1, 10)[0]] for v in autoattack.VERSIONS}
    assert set(of["strongest"]) == {*of["fast"], *of["standard"]} and of["strongest"][0] == "pma"
    settings = {named.name: named.settings for named in autoattack.autoattack("strongest", "linf", 0.1, 10)[0]}
    for named in autoattack.autoattack("standard", "linf", 0.1, 10)[0]:
        assert settings[named.name] == named.settings


def test_a_suite_of_ones_own():
    text = "autoattack(attacks=pma, mm(targets=20,steps=5),apgd_t(targets=3,objective=margin), square(queries=7))"
    own = autoattack.autoattack_version(text)
    attacks, notes = autoattack.autoattack(own, "l2", 0.1, 10)
    assert [a.name for a in attacks] == [
        "pma",
        "mm(targets=20,steps=5)",
        "apgd_t(targets=3,objective=margin)",
        "square(queries=7)",
    ]
    assert [getattr(a.cfg, "targets", 0) for a in attacks] == [0, 9, 3, 0] and attacks[3].cfg.queries == 7
    assert all(a.cfg.norm == "l2" and a.radius == 0.1 for a in attacks)
    assert notes == ["targeted attacks go for all 9 wrong classes, not for 20"]
    autoattack.check_names(["fgsm", text], own)
    with pytest.raises(ValueError, match="pma is a part of autoattack"):
        autoattack.check_names(["pma", text], own)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("autoattack(attacks=)", "names no attack"),
        ("autoattack(attacks=square,square)", "names an attack twice"),
        ("autoattack(attacks=pgdd)", "did you mean 'pgd'"),
        ("autoattack(attacks=pgd(norm=l1))", "measures in l1"),
        ("autoattack(version=fast,attacks=pma)", "both a version and attacks"),
        ("autoattack(version=fast,pma)", "unknown version 'fast,pma'"),
        ("autoattack(steps=3)", "no setting 'steps'; it has version and attacks"),
        ("autoattack(pma)", "'pma' is no setting"),
    ],
)
def test_what_is_no_suite(text, said):
    with pytest.raises(ValueError, match=said) as caught:
        autoattack.autoattack(autoattack.autoattack_version(text), "linf", 0.1, 10)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["autoattack(version=fast)", "autoattack(attacks=mm(steps=2,targets=3),apgd_ce(steps=2))"]
)
def test_an_audit_counts_what_the_suite_announces(text):
    """No image falls in a ball this small, so every one pays for all."""
    rng = np.random.default_rng(0)
    w = jnp.asarray(rng.normal(size=(12, 12)), jnp.float32)
    forward, images = lambda x: x.reshape(len(x), -1) @ w, rng.random((4, 2, 2, 3), np.float32)
    labels = np.asarray(forward(images).argmax(-1))
    result = clead_jax.audit(forward, images, labels, eps=1e-7, attacks=[text], checks=False, batch_size=16)
    version = autoattack.autoattack_version(text)
    assert list(result.passes) == [named.name for named in autoattack.autoattack(version, "linf", 1e-7, 12)[0]]
    for named in autoattack.autoattack(version, "linf", 1e-7, 12)[0]:
        made = result.passes[named.name]
        assert (made["forward"] == named.passes(12)[0]).all() and (made["backward"] == named.passes(12)[1]).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_mm_begins_with_the_nearest_boundary(norm):
    """In a linear model the nearest boundary is known: the likeliest class of small slope comes after a steeper one."""
    rng = np.random.default_rng(1)
    w = rng.normal(size=(12, 15)) * np.geomspace(0.1, 3, 15)
    w[:, 0] = 0
    x = rng.random((6, 2, 2, 3)).astype(np.float32)
    bias = -(x.mean(0).reshape(-1) @ w) - np.linspace(0.3, 1, 15)
    bias[0] = 5.0
    forward = lambda x: x.reshape(len(x), -1) @ jnp.asarray(w, jnp.float32) + jnp.asarray(bias, jnp.float32)
    labels, z = jnp.zeros(6, jnp.int32), np.asarray(forward(x))
    order = {"linf": 1, "l2": 2, "l1": np.inf}[norm]
    distance = (z[:, :1] - z[:, 1:]) / np.linalg.norm(w[:, 1:], ord=order, axis=0)
    found = mm.nearest(forward, jnp.asarray(x), labels, mm.MMConfig(norm=norm, targets=3))
    np.testing.assert_array_equal(found, 1 + distance.argsort(-1))
    assert (np.asarray(found)[:, 0] != z[:, 1:].argmax(-1) + 1).any()
    few = np.asarray(mm.nearest(forward, jnp.asarray(x), labels, mm.MMConfig(norm=norm, targets=3, candidates=5)))
    likeliest = 1 + (-z[:, 1:]).argsort(-1)
    np.testing.assert_array_equal(np.sort(few[:, :5]), np.sort(likeliest[:, :5]))  # the five likeliest, reordered
    np.testing.assert_array_equal(few[:, 5:], likeliest[:, 5:])
    plain = mm.nearest(forward, jnp.asarray(x), labels, mm.MMConfig(norm=norm, targets=3, candidates=0))
    np.testing.assert_array_equal(plain, likeliest)


def test_results_of_ones_own_suite_get_a_folder_that_every_file_system_takes(tmp_path, monkeypatch):
    header = {"threat_model": {"norm": "linf", "eps": 0.1}, "dataset": {"split": "test", "num_examples": 2}}
    others = {"protocols": {"autoattack": {"defended": {"version": "standard", "precision": "float32"}}}}
    found = {tmp_path: header | others}
    monkeypatch.setattr(store, "read_results", lambda folder: (found.get(folder, {}), [{}, {}, {}]))
    version = autoattack.autoattack_version(
        f"autoattack(attacks=pgd(eps=4/255),{','.join(f'mm(steps={n})' for n in range(60))})"
    )
    chosen = store.choose_directory(tmp_path, header, np.arange(2), "latest", (version, "float32"), False)
    assert chosen.parent == tmp_path and len(chosen.name) < 120 and re.fullmatch(r"[\w.=-]+", chosen.name)
