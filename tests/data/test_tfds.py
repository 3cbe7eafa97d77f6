"""TFDS without TensorFlow: CIFAR fetched from a server on this machine, other sets, and what cannot be read."""

import contextlib
import hashlib
import http.server
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time

import numpy as np
import pytest
from PIL import Image

from clead_jax.data import cifar, load

CIFAR10 = (
    "cifar-10-binary.tar.gz",
    "cifar-10-batches-bin/",
    [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test_batch.bin",
)
CIFAR100 = ("cifar-100-binary.tar.gz", "cifar-100-binary/", ["train.bin"], "test.bin")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLEAD_JAX_CACHE", str(tmp_path / "cache"))


def examples(count, seed):
    """Random images [N, 32, 32, 3]; the labels run through the ten classes."""
    return np.random.RandomState(seed).randint(0, 256, (count, 32, 32, 3), np.uint8), np.arange(count) % 10


def records(images, *labels):
    """The bytes of the official layout: the label bytes, then red, green and blue planes, for every image."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([*(np.asarray(part, np.uint8)[:, None] for part in labels), planes], axis=1).tobytes()


def write_archive(path, folder, contents):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(folder + name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def cifar10_archive(path, train, test):
    _, folder, train_files, test_file = CIFAR10
    names = "airplane automobile bird cat deer dog frog horse ship truck".replace(" ", "\n") + "\n\n"
    parts = zip(train_files, np.array_split(train[0], 5), np.array_split(train[1], 5), strict=True)
    contents = {file: records(images, labels) for file, images, labels in parts}
    write_archive(path, folder, contents | {test_file: records(*test), "batches.meta.txt": names.encode()})


@contextlib.contextmanager
def serving(folder, missing_bytes=0, pause=0.0):
    """The URL of a server of the files in `folder`: breaks off early if `missing_bytes`, waits for `pause` seconds."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            file = pathlib.Path(folder) / self.path.lstrip("/")
            if not file.is_file():
                return self.send_error(404)
            data = file.read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(data[: len(data) // 2])
                time.sleep(pause)
                self.wfile.write(data[len(data) // 2 : len(data) - missing_bytes])

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def fails(name, *fragments, **options):
    with pytest.raises(ValueError) as caught:
        load(name, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert not [fragment for fragment in fragments if str(fragment) not in message], message


def same_examples(images, labels, expected_images, expected_labels):
    """TFDS shuffles what it stores: compares as sets of (label, pixels)."""
    rows = lambda *arrays: sorted((int(label), image.tobytes()) for image, label in zip(*arrays, strict=True))
    return rows(images, labels) == rows(expected_images, expected_labels)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A data_dir into which a tiny CIFAR-10 was downloaded and prepared."""
    root = tmp_path_factory.mktemp("tfds")
    cifar10_archive(root / CIFAR10[0], examples(20, seed=0), examples(10, seed=1))
    with serving(root) as url:
        cifar.prepare("cifar10", root / "data", f"{url}/{CIFAR10[0]}")
    return root / "data"


def test_cifar10_is_downloaded_and_prepared_as_tfds_would(prepared):
    dataset = load("cifar10", data_dir=str(prepared), download=False)
    assert same_examples(dataset.train_images, dataset.train_labels, *examples(20, seed=0))
    assert same_examples(dataset.test_images, dataset.test_labels, *examples(10, seed=1))
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    import tensorflow_datasets

    builder = tensorflow_datasets.builder("cifar10", data_dir=prepared)
    assert builder.info.full_name == "cifar10/3.0.2"
    assert {record["id"] for record in builder.as_data_source("test")} == {b"test_%05d" % i for i in range(10)}


def test_cifar100_uses_an_archive_that_is_already_there(tmp_path):
    file, folder, [train_file], test_file = CIFAR100
    images, fine = np.repeat(examples(100, 0)[0], 2, 0), np.arange(200) % 100
    names = lambda kind, count: "\n".join(f"{kind}{i}" for i in range(count)).encode()
    contents = {train_file: records(images, fine // 5, fine), test_file: records(images[:9], fine[:9] // 5, fine[:9])}
    contents |= {"coarse_label_names.txt": names("coarse", 20), "fine_label_names.txt": names("fine", 100)}
    (tmp_path / "downloads").mkdir()
    write_archive(tmp_path / "downloads" / file, folder, contents)
    sha256 = hashlib.sha256((tmp_path / "downloads" / file).read_bytes()).hexdigest()
    fails("cifar100", file, f"its sha256 is {sha256}, not 58a81ae1", "delete it", data_dir=str(tmp_path))
    with pytest.raises(ValueError, match="its sha256 is"):
        cifar.prepare("cifar100", tmp_path, "http://elsewhere", sha256="0" * 64)
    cifar.prepare("cifar100", tmp_path, "http://elsewhere", sha256=sha256)
    recorded = json.loads((tmp_path / "cifar100/3.0.2/archive.json").read_text())
    assert recorded == {"file": file, "sha256": sha256}
    dataset = load("cifar100", data_dir=str(tmp_path))
    assert same_examples(dataset.train_images, dataset.train_labels, images, fine)
    assert (dataset.num_classes, dataset.class_names[42]) == (100, "fine42")


def test_a_second_start_needs_neither_tfds_nor_tensorflow(prepared, tmp_path):
    program = (
        "import sys\n"
        "from clead_jax.data import load\n"
        f"print(load('cifar10', data_dir={str(prepared)!r}).train_labels.sum())\n"
        "print('tensorflow' in sys.modules, 'tensorflow_datasets' in sys.modules)"
    )
    run = lambda: subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert run().split() == ["90", "False", "True"]
    assert run().split() == ["90", "False", "False"]


def test_downloads_that_go_wrong_leave_nothing_behind(tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    target = tmp_path / "downloads" / "file"
    good = hashlib.sha256(b"x" * 3_000_000).hexdigest()
    with serving(tmp_path) as url:
        with pytest.raises(ValueError, match=rf"{url}/file .*sha256 is {good}, not 123"):
            cifar.download(f"{url}/file", target, "123")
        with pytest.raises(ValueError, match=rf"cannot download {url}/none .*404.*put the archive at {target}"):
            cifar.download(f"{url}/none", target, None)
    with (
        serving(tmp_path, missing_bytes=1000) as url,
        pytest.raises(ValueError, match="1000 of 3000000 bytes are missing"),
    ):
        cifar.download(f"{url}/file", target, None)
    with pytest.raises(ValueError, match=rf"cannot download {url}/file .*refused"):
        cifar.download(f"{url}/file", target, None)
    assert not list(target.parent.iterdir())
    with serving(tmp_path) as url:
        cifar.download(f"{url}/file", target, good)
    assert target.stat().st_size == 3_000_000


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "downloads").mkdir()
    archive = tmp_path / "downloads" / CIFAR10[0]
    archive.write_bytes(b"no archive")
    fails("cifar10", archive, "delete it", data_dir=str(tmp_path))
    cifar10_archive(archive, examples(20, seed=0), examples(10, seed=1))
    archive.write_bytes(archive.read_bytes()[:20_000])
    fails("cifar10", archive, "delete it", data_dir=str(tmp_path))
    assert not (tmp_path / "cifar10" / "3.0.2").exists()


ONE = examples(1, seed=0)
BAD = {
    "a label of 200": ({"data_batch_1.bin": records(ONE[0], [200])}, "label 200 is outside the 10 classes"),
    "a ragged file": ({"test_batch.bin": records(*ONE)[:-1]}, "3072 bytes are no whole images of 3073"),
    "two ragged files": ({f"data_batch_{i}.bin": b"x" * n for i, n in ((1, 3000), (2, 73))}, "3000, 73"),
    "an empty file": ({"test_batch.bin": b""}, "no whole images"),
    "a folder": ({"data_batch_3.bin": None}, "is a folder"),
    "too few names": ({"batches.meta.txt": b"a\nb"}, "not names of its classes"),
    "names that are no text": ({"batches.meta.txt": b"\xff\n" * 10}, "not names of its classes"),
}


@pytest.mark.parametrize("changes, named", BAD.values(), ids=BAD)
def test_records_that_are_none_get_one_line(tmp_path, changes, named):
    (tmp_path / "downloads").mkdir()
    whole = {file: records(*ONE) for file in [*CIFAR10[2], CIFAR10[3]]} | {"batches.meta.txt": b"a b c d e f g h i j"}
    with tarfile.open(tmp_path / "downloads" / CIFAR10[0], "w:gz") as tar:
        for name, data in (whole | changes).items():
            member = tarfile.TarInfo(CIFAR10[1] + name)
            member.type, member.size = (tarfile.DIRTYPE, 0) if data is None else (tarfile.REGTYPE, len(data))
            tar.addfile(member, io.BytesIO(data or b""))
    with pytest.raises(ValueError) as caught:
        cifar.prepare("cifar10", tmp_path, "http://elsewhere")
    assert named in str(caught.value) and "\n" not in str(caught.value), str(caught.value)
    assert not (tmp_path / "cifar10").exists() and not list(tmp_path.glob(".preparing*"))


def test_three_processes_prepare_one_data_set_at_once(tmp_path):
    cifar10_archive(tmp_path / CIFAR10[0], examples(20, seed=0), examples(10, seed=1))
    program = (
        "import pathlib, sys\nfrom clead_jax.data import cifar, load\nprint('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "cifar.prepare('cifar10', pathlib.Path(sys.argv[1]), sys.argv[2])\n"
        "load('cifar10', data_dir=sys.argv[1], download=False)"
    )
    with serving(tmp_path) as url:
        argv = [sys.executable, "-c", program, str(tmp_path / "data"), f"{url}/{CIFAR10[0]}"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running = [subprocess.Popen(argv, **pipes) for _ in range(3)]
        for each in running:
            each.stdout.readline()
        for each in running:
            each.stdin.write("\n")
            each.stdin.flush()
        ended = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0, 0, 0], [err for _, err in ended]
    assert len(load("cifar10", data_dir=str(tmp_path / "data")).train_labels) == 20
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["cifar10", "downloads"]
    assert [path.name for path in (tmp_path / "data/cifar10").iterdir()] == ["3.0.2"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda n: n.name)
@pytest.mark.parametrize("when", ["downloads/.preparing-*/*", ".preparing-*/cifar10"], ids=["download", "writing"])
def test_a_preparation_that_is_killed_costs_nothing(tmp_path, number, when):
    train = examples(2000, seed=0)
    cifar10_archive(tmp_path / CIFAR10[0], train, examples(10, seed=1))
    program = (
        "import pathlib, sys\nfrom clead_jax.config import cli\nfrom clead_jax.data import cifar\n"
        "cli.run(lambda argv: cifar.prepare('cifar10', pathlib.Path(argv[1]), argv[2]))"
    )
    data = tmp_path / "data"
    with serving(tmp_path, pause=1.0) as url:
        words = [sys.executable, "-c", program, str(data), f"{url}/{CIFAR10[0]}"]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not list(data.glob(when)):
            time.sleep(0.005)
        process.send_signal(number)
        said, status = process.communicate(timeout=120)[1], -9 if number == signal.SIGKILL else 128 + number
        assert process.returncode == status and said.count("\n") <= 2, said
        assert not (data / "cifar10").exists() and bool(list(data.glob("**/.preparing-*"))) == (status == -9)
        for left in data.glob("**/.preparing-*"):
            os.utime(left, (0, 0))  # long ago
        subprocess.run(words, check=True)
    dataset = load("cifar10", data_dir=str(data), download=False)
    assert same_examples(dataset.train_images, dataset.train_labels, *train)
    assert sorted(path.name for path in data.iterdir()) == ["cifar10", "downloads"]


def test_a_folder_in_use_is_left_and_an_abandoned_one_removed(tmp_path):
    abandoned = tmp_path / ".preparing-abandoned"
    abandoned.mkdir()
    with cifar._part(tmp_path) as used:
        for folder in (used, abandoned):
            os.utime(folder, (0, 0))
        with cifar._part(tmp_path):
            assert used.exists() and not abandoned.exists()
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_loop_is_one_line(tmp_path):
    class Loop(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Loop) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(ValueError, match="infinite loop") as caught:
            cifar.download(f"http://127.0.0.1:{server.server_port}/x", tmp_path / "downloads" / "x", None)
        server.shutdown()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY"])
def test_a_proxy_from_the_environment_is_used(tmp_path, monkeypatch, variable):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(name, raising=False)
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "5")
            self.end_headers()
            self.wfile.write(b"proxy")

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(variable, f"http://127.0.0.1:{server.server_port}")
        cifar.download("http://nowhere.invalid/x", tmp_path / "x", None)
        server.shutdown()
    assert asked == ["http://nowhere.invalid/x"] and (tmp_path / "x").read_bytes() == b"proxy"


# --- other data sets, and what cannot be read


def edited(prepared, tmp_path, file, change):
    """A copy of the prepared CIFAR-10 with one of its JSON files changed."""
    shutil.copytree(prepared, tmp_path / "copy")
    path = tmp_path / "copy" / "cifar10" / "3.0.2" / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return str(tmp_path / "copy")


def test_tfrecord_gets_the_command_that_converts_it(prepared, tmp_path):
    data_dir = edited(prepared, tmp_path, "dataset_info.json", lambda info: info | {"fileFormat": "tfrecord"})
    folder = f"{data_dir}/cifar10/3.0.2"
    command = f"tfds convert_format --dataset_version_dir={folder} --out_file_format=array_record"
    fails("cifar10", folder, "tfrecord", "pip install tensorflow-cpu", command, data_dir=data_dir)
    both = lambda info: info | {"fileFormat": "tfrecord", "alternativeFileFormats": ["array_record"]}  # what it leaves
    shutil.rmtree(tmp_path / "copy")
    assert len(load("cifar10", data_dir=edited(prepared, tmp_path, "dataset_info.json", both)).train_labels) == 20


def test_a_set_that_only_tensorflow_prepares_gets_the_command(tmp_path):
    command = f"tfds build svhn_cropped --data_dir={tmp_path} --file_format=array_record"
    fails("svhn_cropped", f"not prepared in {tmp_path}", "pip install tensorflow-cpu", command, data_dir=str(tmp_path))
    fails("tfds:nonsense", "'nonsense'", data_dir=str(tmp_path))
    fails("cifar10", "download is off", data_dir=str(tmp_path), download=False)


def test_a_set_without_labels_is_refused(prepared, tmp_path):
    unlabelled = lambda info: {key: value for key, value in info.items() if key != "supervisedKeys"}
    data_dir = edited(prepared, tmp_path, "dataset_info.json", unlabelled)
    fails("cifar10", "cifar10/3.0.2", "supervised keys", "ClassLabel", data_dir=data_dir)


def make(data_dir, *, name, sizes, splits, version="1.0.0", grey=False):
    """Prepares a data set of our own with TFDS: image i of a split is all of value i, label i % 2."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Shades(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)

            def _info(self):
                image = tfds.features.Image(shape=(None, None, 1 if grey else 3))
                features = tfds.features.FeaturesDict(
                    {"x": image, "y": tfds.features.ClassLabel(names=["even", "odd"])}
                )
                return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("x", "y"))

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(count) for split, count in splits.items()}

            def _generate_examples(self, count):
                for i in range(count):
                    size = sizes[i % len(sizes)]
                    yield i, {"x": Image.new("L" if grey else "RGB", size, i if grey else (i, i, i)), "y": i % 2}

    Shades.name = name
    Shades(data_dir=data_dir, file_format="array_record").download_and_prepare()


def test_any_prepared_classification_set_is_read(tmp_path):
    for version, count in (("1.9.0", 4), ("1.10.0", 12)):
        make(
            tmp_path,
            name="shades",
            sizes=[(5, 4)],
            splits={"train": count, "validation": 6},
            version=version,
            grey=True,
        )
    dataset = load("shades", data_dir=str(tmp_path))
    assert (dataset.image_shape, dataset.class_names) == ((4, 5, 1), ("even", "odd"))
    assert sorted(dataset.train_images[:, 0, 0, 0]) == list(range(12))  # 1.10.0 is newer than 1.9.0
    assert len(dataset.test_labels) == 6  # validation is used as test
    assert (dataset.train_images[:, 3, 4, 0] % 2 == dataset.train_labels).all()
    assert len(load("shades:1.9.0", data_dir=str(tmp_path)).train_labels) == 4
    assert len(load("tfds:shades", data_dir=str(tmp_path)).train_labels) == 12


def test_images_of_several_sizes_need_an_image_size(tmp_path):
    make(tmp_path, name="mixed", sizes=[(5, 4), (8, 6)], splits={"train": 20})
    fails("mixed", "mixed train, image", "5x4", "8x6", "image_size", data_dir=str(tmp_path))
    dataset = load("mixed", data_dir=str(tmp_path), image_size=4)
    assert dataset.image_shape == (4, 4, 3)
    assert len(dataset.test_labels) == 4  # there was neither test nor validation


@pytest.mark.slow
def test_real_cifar10_through_our_preparation_equals_the_reference(shared, tmp_path):
    """The whole way at full size: an archive of the official layout, served, prepared and decoded."""
    if not (shared / "data" / "cifar10").exists():
        pytest.skip("no CIFAR-10 among the reference data")
    subprocess.run([sys.executable, shared / "data" / "make_tfds.py", tmp_path / "reference", "cifar10"], check=True)
    sys.path.insert(0, str(shared / "data"))
    import make_tfds

    train, test = (
        (images, labels["label"]) for images, labels in (make_tfds.load("cifar10", s) for s in ("train", "test"))
    )
    cifar10_archive(tmp_path / CIFAR10[0], train, test)
    with serving(tmp_path) as url:
        cifar.prepare("cifar10", tmp_path / "ours", f"{url}/{CIFAR10[0]}")
    ours, reference = (load("cifar10", data_dir=str(tmp_path / root)) for root in ("ours", "reference"))
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(ours, field), getattr(reference, field))
    assert same_examples(ours.test_images, ours.test_labels, *test)
    assert np.bincount(ours.train_labels).tolist() == [5000] * 10
    assert ours.class_names == reference.class_names
