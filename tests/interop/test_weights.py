"""Weights from files: what fits is loaded, what does not is named, and no file runs code."""

import os
import pickle

import jax
import numpy as np
import pytest
from flax import linen

import clead_jax
from clead_jax.interop import load_weights, read_haiku, read_weights

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def deepmind(blocks=1, widening=1):
    """(params, state) as DeepMind's WideResNet has them in Haiku."""
    params, state = {}, {}
    top = "wide_res_net/~/"

    def norm(name, channels):
        params[name] = {"scale": 1 + 0.1 * normal(1, 1, 1, channels), "offset": normal(1, 1, 1, channels)}
        for which in ("mean_ema", "var_ema"):
            average = np.abs(normal(1, 1, 1, channels)) + 0.5
            state[f"{name}/~/{which}"] = {"average": average, "hidden": 0.1 * average, "counter": np.int32(7)}

    params[f"{top}init_conv"], inputs = {"w": normal(3, 3, 3, 16)}, 16
    for stage in range(3):
        outputs = 16 * widening * 2**stage
        for i in range(blocks):
            name = f"{top}resnet_lay_{stage}_block_{i}"
            if inputs != outputs:
                params[f"{name}/~/shortcut"] = {"w": 0.2 * normal(1, 1, inputs, outputs)}
            for n, channels in enumerate((inputs, outputs)):
                norm(f"{name}/~/batchnorm_{n}", channels)
                params[f"{name}/~/conv_{n}"] = {"w": 0.1 * normal(3, 3, channels, outputs)}
            inputs = outputs
    norm(f"{top}batchnorm", inputs)
    params[f"{top}logits"] = {"w": normal(inputs, 10), "b": normal(10)}
    return params, state


def saved(path, pair):
    """As np.save does it with a pair of dicts."""
    both = np.empty(2, object)
    both[:] = pair
    np.save(path, both)
    return path


def test_haiku_files_give_the_pair_and_torchs_names(tmp_path):
    params, state = deepmind()
    path = saved(tmp_path / "net.npy", (params, state))
    for found, expected in zip(read_haiku(path), (params, state), strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    tensors = read_weights(path)
    assert tensors["layer.2.block.0.conv_1.weight"].shape == (64, 64, 3, 3)
    kernel = params["wide_res_net/~/init_conv"]["w"]
    assert tensors["init_conv.weight"][5, 2, 0, 1] == kernel[0, 1, 2, 5]
    np.testing.assert_array_equal(tensors["logits.weight"], params["wide_res_net/~/logits"]["w"].T)
    average = state["wide_res_net/~/batchnorm/~/var_ema"]["average"]
    np.testing.assert_array_equal(tensors["batchnorm.running_var"], average.ravel())
    assert not any("hidden" in name or "counter" in name for name in tensors)


class Attack:
    def __reduce__(self):
        return os.mkdir, ("was_here",)


@pytest.mark.parametrize("where", ["in the pair", "alone"])
def test_a_pickle_in_npy_runs_nothing(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "net.npy", ({"a": {"w": Attack()}}, {}) if where == "in the pair" else (Attack(), {}))
    with pytest.raises(ValueError, match=r"net\.npy: holds posix\.mkdir, and only arrays are read"):
        read_weights(path)
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"\x93NUMPY\x01\x00", r"a\.npy cannot be read as npy: "),
        ("a.npy", b"no such header", r"a\.npy cannot be read as npy: "),
        ("a.npz", b"PK\x03\x04", r"a\.npz cannot be read as npz: "),
        ("a.pkl", pickle.dumps({}), r"unknown kind of file; weights are read from \.safetensors, .*\.pt"),
        ("a.bin", b"", r"unknown kind of file"),
    ],
)
def test_unreadable_files_get_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_plain_array_get_one_line(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_weights(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"holds one array; \(params, state\) of a Haiku model is needed"):
        read_weights(tmp_path / "a.npy")


@pytest.fixture
def flax_variables():
    return linen.Dense(3).init(jax.random.key(0), np.zeros((1, 2), np.float32))


def test_onto_a_tree_of_flax(tmp_path, flax_variables):
    kernel, bias = normal(2, 3), normal(3)
    np.savez(tmp_path / "a.npz", **{"params.kernel": kernel, "params.bias": bias})
    loaded = load_weights(flax_variables, tmp_path / "a.npz")
    np.testing.assert_array_equal(loaded["params"]["kernel"], kernel)
    np.savez(tmp_path / "b.npz", **{"module.params.kernel": kernel, "module.params.bias": bias})
    np.testing.assert_array_equal(load_weights(flax_variables, tmp_path / "b.npz")["params"]["bias"], bias)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"params.kernel": (2, 3)}, "missing: params.bias$"),
        ({"params.kernel": (2, 3), "params.bias": (3,), "params.extra": (1,)}, "not in the model: params.extra$"),
        ({"params.kernel": (3, 2), "params.bias": (3,)}, r"another shape: params.kernel \[3, 2\] instead of \[2, 3\]$"),
        ({"kernel": (2, 3), "bias": (3,)}, "missing: params.bias, params.kernel; not in the model: bias, kernel$"),
        ({}, "missing: params.bias, params.kernel$"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, flax_variables, tensors, message):
    np.savez(tmp_path / "a.npz", **{name: normal(*shape) for name, shape in tensors.items()})
    with pytest.raises(ValueError, match=message):
        load_weights(flax_variables, tmp_path / "a.npz")


def test_what_is_kept_may_be_missing(tmp_path, flax_variables):
    np.savez(tmp_path / "a.npz", **{"params.kernel": normal(2, 3)})
    loaded = load_weights(flax_variables, tmp_path / "a.npz", keep=("params.bias",))
    np.testing.assert_array_equal(loaded["params"]["bias"], flax_variables["params"]["bias"])


def test_rename_and_leave_out(tmp_path, flax_variables):
    np.savez(tmp_path / "a.npz", **{"fc.kernel": normal(2, 3), "fc.bias": normal(3), "attacker.mean": normal(3)})
    rename = lambda name: name.replace("fc.", "params.") if name.startswith("fc.") else None
    assert load_weights(flax_variables, tmp_path / "a.npz", rename=rename)["params"]["bias"].shape == (3,)


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed; pip install '.[torch]'")


@pytest.fixture
def nets(torch):
    import torch_nets

    return torch_nets


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model."])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict"])
def test_robustbenchs_pt_files(tmp_path, torch, nets, prefix, key):
    theirs = nets.scrambled(nets.WideResNet(10, 1), seed=1)
    tensors = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    torch.save(tensors if key is None else {key: tensors, "epoch": 3, "optimizer": {"state": {}}}, tmp_path / "a.pt")
    ours = load_weights(nets.WideResNet(10, 1).eval(), tmp_path / "a.pt")
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))


def test_a_normalised_network_and_counters_of_old_files(tmp_path, torch, nets):
    theirs = nets.scrambled(nets.Normalised(nets.PreActResNet(width=4, blocks=1)))
    old = {name: t for name, t in theirs.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "a.pth")
    load_weights(nets.Normalised(nets.PreActResNet(width=4, blocks=1)), tmp_path / "a.pth")
    bare = {name.removeprefix("model."): t for name, t in old.items() if not name.startswith("normalize.")}
    torch.save(bare, tmp_path / "bare.pt")
    ours, named = nets.Normalised(nets.PreActResNet(width=4, blocks=1)), lambda name: f"model.{name}"
    with pytest.raises(ValueError, match=r"missing: normalize\.mean, normalize\.std$"):
        load_weights(ours, tmp_path / "bare.pt", rename=named)
    load_weights(ours.eval(), tmp_path / "bare.pt", rename=named, keep=("normalize.mean", "normalize.std"))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))
    with pytest.raises(ValueError, match=r"not in the model: .*normalize\.mean, normalize\.std"):
        load_weights(nets.PreActResNet(width=4, blocks=1), tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda torch, net: net, r"weights_only=True \(.*save the state dict alone: torch.save\(model.state_dict"),
        (lambda torch, net: {"state_dict": net.state_dict(), "hook": Attack()}, "weights_only=True"),
        (lambda torch, net: [1, 2], "holds a list, not a state dict"),
        (lambda torch, net: {"epoch": 3}, "has no state dict ''; key= can be nothing"),
        (lambda torch, net: {"a": net.state_dict(), "b": net.state_dict()}, "key= can be a, b"),
        (lambda torch, net: {**net.state_dict(), "epoch": 3}, "holds more than tensors: epoch"),
    ],
)
def test_bad_pt_files_get_one_line(tmp_path, monkeypatch, torch, content, message):
    monkeypatch.chdir(tmp_path)
    torch.save(content(torch, torch.nn.Linear(2, 3)), tmp_path / "a.pt")
    with pytest.raises(ValueError, match=message) as error:
        load_weights(torch.nn.Linear(2, 3), tmp_path / "a.pt")
    assert "\n" not in str(error.value) and not (tmp_path / "was_here").exists()


def test_a_truncated_pt_and_a_chosen_state_dict(tmp_path, torch):
    net = torch.nn.Linear(2, 3)
    torch.save({"a": torch.nn.Linear(2, 3).state_dict(), "b": net.state_dict()}, tmp_path / "a.pt")
    assert torch.equal(load_weights(torch.nn.Linear(2, 3), tmp_path / "a.pt", key="b").weight, net.weight)
    (tmp_path / "half.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"half\.pt.*(cannot be read as pt|weights_only)"):
        load_weights(net, tmp_path / "half.pt")


def test_safetensors_whole_and_truncated(tmp_path, torch):
    save = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file
    theirs = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    save(theirs.state_dict(), tmp_path / "a.safetensors")
    ours = load_weights(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), tmp_path / "a.safetensors"
    )
    assert torch.equal(ours[0].weight, theirs[0].weight)
    (tmp_path / "half.safetensors").write_bytes((tmp_path / "a.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match=r"half\.safetensors cannot be read as safetensors"):
        load_weights(ours, tmp_path / "half.safetensors")


def test_deepminds_npy_is_the_same_net_in_haiku_and_in_torch(tmp_path, torch, nets):
    hk = pytest.importorskip("haiku", reason="Haiku is not installed; pip install dm-haiku")
    import haiku_net

    module = hk.without_apply_rng(hk.transform_with_state(haiku_net.logits))
    path = saved(tmp_path / "net.npy", deepmind())
    params, state = read_haiku(path)
    x = np.random.default_rng(3).random((2, 32, 32, 3), np.float32)
    expected, _ = module.apply(params, state, x)
    classifier = clead_jax.from_torch(load_weights(nets.DeepMindWideResNet(10, 1).eval(), path), (32, 32, 3))
    np.testing.assert_allclose(classifier(x), expected, atol=1e-4 * np.abs(expected).max())
