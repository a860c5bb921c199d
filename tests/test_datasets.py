"""Datasets: those of the install always, those of the data folder when it is there, and how `get`
fills one."""

import functools
import gzip
import hashlib
import http.server
import os
import re
import sys
import threading

import pytest
import torch

from tensorlab import datasets
from tensorlab.datasets import File, Source

DATA = os.environ.get("TENSORLAB_DATA")
needs_folder = pytest.mark.skipif(not DATA, reason="needs the data folder (set TENSORLAB_DATA)")


# -- with the install


def test_digits():
    X, y = datasets.digits()
    assert X.shape == (1797, 8, 8) and X.dtype == torch.float64 and (X.min(), X.max()) == (0, 1)
    assert y.shape == (1797,) and y.unique().tolist() == list(range(10))


@pytest.mark.parametrize("name", ["flower", "china"])
def test_photo(name):
    pytest.importorskip("PIL")
    x = datasets.photo(name)
    assert (
        x.shape == (427, 640, 3)
        and x.dtype == torch.float64
        and 0 <= x.min() < 0.1
        and 0.9 < x.max() <= 1
    )


@pytest.mark.parametrize(
    ("load", "shape", "classes"),
    [(datasets.wine, (178, 13), 3), (datasets.breast_cancer, (569, 30), 2)],
)
def test_small_tables(load, shape, classes):
    table = load()
    assert table.X.shape == shape and table.X.dtype == torch.float64 and table.y.shape == shape[:1]
    assert len(table.columns) == shape[1] and len(table.classes) == classes == len(table.y.unique())


def test_corpus_has_no_paragraph_twice():
    text = datasets.corpus()
    paragraphs = text.rstrip("\n").split("\n\n")
    assert len(text) > 200_000 and len(set(paragraphs)) == len(paragraphs)


def test_elevation_and_mri():
    pytest.importorskip("matplotlib")
    height, slice_ = datasets.elevation(), datasets.mri()
    assert (
        height.shape == (344, 403)
        and height.dtype == torch.float64
        and 200 < height.min() < height.max() < 1100
    )
    assert (
        slice_.shape == (256, 256)
        and slice_.dtype == torch.float64
        and slice_.min() == 0 < slice_.std()
    )


@pytest.mark.parametrize(
    ("module", "load"),
    [
        ("sklearn.datasets", datasets.digits),
        ("PIL", datasets.photo),
        ("matplotlib.cbook", datasets.mri),
        ("pydoc_data.topics", datasets.corpus),
    ],
)
def test_a_missing_package_is_one_sentence(monkeypatch, module, load):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ModuleNotFoundError,
        match=rf"^{load.__name__}: needs .*, which is not installed; get it by: ",
    ):
        load()


# -- from the data folder: the counts are those that the sets' descriptions state


@pytest.mark.thorough
@needs_folder
def test_mnist():
    X, y = datasets.mnist()
    assert X.shape == (60000, 28, 28) and X.dtype == torch.float32 and X.max() == 1
    assert float(X.mean()) == pytest.approx(0.1307, abs=1e-4) and y[:5].tolist() == [5, 0, 4, 1, 9]
    X, y = datasets.mnist("test")
    assert (
        X.shape == (10000, 28, 28) and y[:5].tolist() == [7, 2, 1, 0, 4] and y.dtype == torch.int64
    )


@needs_folder
def test_texts():
    text = datasets.tinyshakespeare()
    assert len(text) == 1_115_394 and len(set(text)) == 65
    for split, words, types in (("valid", 217_646, 13_777), ("test", 245_569, 14_143)):
        got = datasets.wikitext2(split)
        assert (len(got), len(set(got))) == (words, types)


@pytest.mark.thorough
@needs_folder
@pytest.mark.parametrize(
    ("name", "shape", "positive"),
    [
        ("power", (88737, 8), None),
        ("magic", (19020, 10), 12332),
        ("htru2", (17898, 8), 1639),
        ("ccpp", (9568, 4), None),
        ("california", (20640, 8), None),
        ("winequality", (6497, 11), None),
        ("abalone", (4177, 8), None),
        ("banknote", (1372, 4), 610),
    ],
)
def test_tabular(name, shape, positive):
    table = datasets.tabular(name)
    assert table.X.shape == shape and table.X.dtype == torch.float64 and table.X.isfinite().all()
    assert table.y.shape == shape[:1] and len(table.columns) == shape[1]
    if positive is not None:
        assert table.y.dtype == torch.int64 and int(table.y.sum()) == positive


@needs_folder
def test_categorical():
    table = datasets.car()
    assert table.X.shape == (1728, 6) and table.X.dtype == torch.int64
    assert table.y.bincount().tolist() == [1210, 384, 69, 65]
    assert len(table.X.unique(dim=0)) == 1728 == 4 * 4 * 4 * 3 * 3 * 3  # every combination once
    for name, rows, positive in (
        ("1625", 1625, 375),
        ("746", 746, 402),
        ("impens", 947, 149),
        ("schilling", 3272, 434),
    ):
        X, y = datasets.hiv(name)
        assert X.shape == (rows, 8) and int(y.sum()) == positive and 0 <= X.min() and X.max() < 20


@pytest.mark.thorough
@needs_folder
def test_adult_has_the_same_levels_in_both_parts():
    train, test = datasets.adult(), datasets.adult("test")
    assert train.X.shape == (32561, 14) and int(train.y.sum()) == 7841
    assert test.X.shape == (16281, 14) and int(test.y.sum()) == 3846
    assert (
        train.levels == test.levels
        and train.levels[0] == ()
        and train.levels[9] == ("Female", "Male")
    )
    assert float(train.X[0, 0]) == 39.0 and train.levels[1][int(train.X[0, 1])] == "State-gov"


@needs_folder
def test_sentences():
    for split, rows, positive in (("train", 60614, 33828), ("dev", 6735, 3741), ("test", 872, 444)):
        text, y = datasets.sst2(split)
        assert (
            len(text) == rows == len(y)
            and int(y.sum()) == positive
            and not any(t.endswith(" ") for t in text)
        )
    for split, rows in (("train", 5749), ("dev", 1500), ("test", 1379)):
        first, second, score = datasets.stsb(split)
        assert (
            len(first) == len(second) == len(score) == rows
            and 0 <= score.min()
            and score.max() == 5
        )
        assert all(first) and all(second)


@needs_folder
def test_stored_files_are_those_of_the_table():
    for source in datasets.SOURCES.values():
        for file in source.files:
            if file.url:
                raw = (datasets.folder() / file.path).read_bytes()
                raw = raw if file.url.endswith(".gz") else gzip.decompress(raw)
                assert hashlib.sha256(raw).hexdigest() == file.sha256, file.path


# -- readers on small files of our own, so that they are tested without the data folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORLAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def _write(path, raw):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw))


def test_reads_lines_that_end_in_carriage_returns_only(home):
    _write(home / "tabular/HTRU_2.csv.gz", b"a,class\r1,2,3,4,5,6,7,8,0\r1,2,3,4,5,6,7,8.5,1")
    X, y = datasets.tabular("htru2")
    assert X.shape == (2, 8) and X[1, 7] == 8.5 and y.tolist() == [0, 1]


def test_adult_labels_may_end_with_a_dot_and_files_with_empty_lines(home):
    row = "39, ?, 1, HS-grad, 9, Single, Sales, Wife, Black, Male, 0, 0, 40, Peru, {}\n"
    _write(home / "categorical/adult-train.csv.gz", (row.format("<=50K") + "\n").encode())
    _write(home / "categorical/adult-test.csv.gz", row.format(">50K.").encode())
    assert datasets.adult("test").y.tolist() == [1] and datasets.adult().levels[1] == ("?",)


def test_sentences_keep_quotes_and_unicode_separators(home):
    for split in ("train", "dev", "test"):
        _write(
            home / f"stsb/sts-{split}.csv.gz",
            'a\tb\tc\t1\t2.5\t"Quote\tB\u2028still B\tremark\n'.encode(),
        )
        _write(home / f"sst2/{split}.tsv.gz", "sentence\tlabel\nwell\x85done \t1\n".encode())
    first, second, score = datasets.stsb("dev")
    assert (first, second, score.tolist()) == (['"Quote'], ["B\u2028still B"], [2.5])
    assert datasets.sst2("dev").text == ["well\x85done"]


def test_idx_does_not_depend_on_names_inside(home):
    for part, n in (("train", 2), ("t10k", 1)):
        head = bytes([0, 0, 8, 3, *(0, 0, 0, n), *(0, 0, 0, 28) * 2])
        _write(home / f"mnist/{part}-images-idx3-ubyte.gz", head + b"\xff" * 784 * n)
        _write(
            home / f"mnist/{part}-labels-idx1-ubyte.gz",
            bytes([0, 0, 8, 1, 0, 0, 0, n]) + b"\x07" * n,
        )
    X, y = datasets.mnist()
    assert X.shape == (2, 28, 28) and (X == 1).all() and y.tolist() == [7, 7]
    assert datasets.mnist("test").X.shape == (1, 28, 28)


# -- what is missing, and getting it


def test_a_missing_set_names_its_command(home):
    sentence = (
        "mnist: needs the file mnist/train-images-idx3-ubyte.gz in the data folder; get it by: "
        "tensorlab data get mnist"
    )
    with pytest.raises(FileNotFoundError, match=f"^{re.escape(sentence)}$"):
        datasets.mnist()


@pytest.mark.parametrize("name", ["power", "california", "sst2", "stsb"])
def test_a_set_that_cannot_be_downloaded_says_where_it_is(home, name):
    with pytest.raises(
        FileNotFoundError, match=rf"^{name}: needs the file .* cannot be downloaded here: it is "
    ):
        datasets.get(name)
    assert not home.exists()


@pytest.mark.parametrize(
    "call",
    [
        lambda: datasets.tabular("iris"),
        lambda: datasets.mnist("dev"),
        lambda: datasets.hiv("1"),
        lambda: datasets.get("imagenet"),
        lambda: datasets.photo("cat"),
        lambda: datasets.sst2("valid"),
    ],
)
def test_unknown_names_are_told_the_known_ones(call):
    with pytest.raises(ValueError, match=r"(name|split) must be .* or .*, got '"):
        call()


def test_available(home):
    rows = {row.name: row for row in datasets.available()}
    assert rows["digits"].where == "install" and rows["digits"].command == ""
    assert rows["mnist"].where == "missing" and rows["mnist"].command == "tensorlab data get mnist"
    assert len(rows) == len(datasets.available()) and all(
        row.what and row.license for row in rows.values()
    )
    _write(home / "tabular/abalone.csv.gz", b"")
    assert {row.name: row.where for row in datasets.available()}["abalone"] == "data folder"


def test_the_default_folder_is_a_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("TENSORLAB_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert datasets.folder() == tmp_path / "tensorlab"


def test_every_source_has_an_address_with_a_sum_or_a_place():
    for name, source in datasets.SOURCES.items():
        for file in source.files:
            assert bool(file.url) == bool(file.sha256) == (not source.found), name
            assert not file.url or (
                file.url.startswith("https://") and re.fullmatch("[0-9a-f]{64}", file.sha256)
            )


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of this machine as a web site: (folder, address)."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    root = tmp_path / "site"
    root.mkdir()
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Quiet, directory=root)
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def _offer(monkeypatch, address, raw, name="raw.csv"):
    file = File("tabular/abalone.csv.gz", address + name, hashlib.sha256(raw).hexdigest())
    monkeypatch.setitem(datasets.SOURCES, "abalone", Source("snails", "none", (file,)))


ROWS = b"M,1,2,3,4,5,6,7,15\nF,1,2,3,4,5,6,7,9\n"


def test_get_compresses_what_it_downloads_and_keeps_what_is_there(home, site, monkeypatch):
    (root, address), stored = site, home / "tabular/abalone.csv.gz"
    (root / "raw.csv").write_bytes(ROWS)
    _offer(monkeypatch, address, ROWS)
    assert datasets.get("abalone") == home
    assert datasets.tabular("abalone").y.tolist() == [15.0, 9.0]
    assert [p.name for p in stored.parent.iterdir()] == [stored.name]
    (root / "raw.csv").unlink()
    datasets.get("abalone")  # nothing is asked of the site again


def test_get_stores_compressed_files_as_they_are(home, site, monkeypatch):
    (root, address), raw = site, gzip.compress(ROWS, mtime=7)
    (root / "raw.csv.gz").write_bytes(raw)
    _offer(monkeypatch, address, raw, "raw.csv.gz")
    before = os.umask(0o027)
    try:
        datasets.get("abalone")
    finally:
        os.umask(before)
    stored = home / "tabular/abalone.csv.gz"
    assert stored.read_bytes() == raw
    assert sys.platform == "win32" or stored.stat().st_mode & 0o777 == 0o640


def test_another_sum_is_refused_and_nothing_kept(home, site, monkeypatch):
    root, address = site
    (root / "raw.csv").write_bytes(ROWS + b"tampered")
    _offer(monkeypatch, address, ROWS)
    with pytest.raises(
        ValueError, match=r"^abalone: needs SHA-256 \w{64} from http.*, got another; not kept$"
    ):
        datasets.get("abalone")
    assert list((home / "tabular").iterdir()) == []


def test_an_address_that_fails_is_one_sentence(home, site, monkeypatch):
    _offer(monkeypatch, site[1], ROWS)
    with pytest.raises(OSError, match=r"^abalone: needs http.*, which cannot be read: "):
        datasets.get("abalone")
    assert list((home / "tabular").iterdir()) == []


def test_get_of_an_installed_set_has_nothing_to_do(home):
    assert datasets.get("digits") == home and not home.exists()
