"""The package as others get it: built, and installed into fresh environments that hold what it
declares and nothing else.

The environments take the packages of others from the one that runs the tests, by links, so that
nothing is downloaded; which ones, the metadata of the wheel say.
"""

import csv
import email
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from served import lab

pytestmark = pytest.mark.package
ROOT = Path(__file__).parents[1]


def tracked(*patterns) -> set[str]:
    """The files of the clone that git knows by these patterns."""
    done = subprocess.run(
        ["git", "-C", ROOT, "ls-files", *patterns], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def needs(requirements, extras=("",)) -> set[Requirement]:
    """The requirements that hold here, with any of the extras."""
    parsed = map(Requirement, requirements or ())
    holds = lambda r: r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras)
    return {r for r in parsed if holds(r)}


def closure(requirements) -> set[str]:
    """The names of all distributions that these requirements bring."""
    found, front = {}, list(requirements)
    while front:
        one = front.pop()
        extras = found.setdefault(one.name.lower(), set())
        if (new := {"", *one.extras} - extras) and one.name != "tensorlab-methods":
            extras |= new
            front += needs(distribution(one.name).requires, new)
    return found.keys() - {"tensorlab-methods"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (source,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return source, wheel


@pytest.fixture(scope="module")
def metadata(built):
    """What the wheel says about itself."""
    with zipfile.ZipFile(built[1]) as wheel:
        (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(wheel.read(name))


@pytest.fixture(scope="module")
def environment(built, metadata, tmp_path_factory):
    """A function that gives the Python of a fresh environment with the wheel and some extras."""

    def make(*extras) -> Path:
        folder = tmp_path_factory.mktemp("-".join(["venv", *extras]))
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = folder / "bin" / "python"
        site = next(folder.glob("lib/python*/site-packages"))
        for name in closure(needs(metadata.get_all("Requires-Dist"), ("", *extras))):
            link(name, folder, site)
        options = ["--no-deps", "--no-index", "--quiet"]
        subprocess.run([python, "-I", "-m", "pip", "install", *options, built[1]], check=True)
        return python

    return make


def link(name: str, folder: Path, site: Path) -> None:
    """Put a distribution that is installed here into another environment."""
    found = distribution(name)
    home = Path(found.locate_file(""))
    for top in {path.parts[0] for path in found.files if path.parts[0] not in ("..", "bin")}:
        if top != "__pycache__" and not (site / top).exists():
            (site / top).symlink_to(home / top)
    for path in found.files:  # what Jupyter looks for beside its Python: kernels, its pages
        if path.parts[0] == ".." and "share" in path.parts:
            target = folder.joinpath(*path.parts[path.parts.index("share") :])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.exists() or target.symlink_to(home.joinpath(path).resolve())


@pytest.fixture(scope="module")
def bare(environment) -> Path:
    """The Python of `pip install tensorlab-methods`."""
    return environment()


@pytest.fixture(scope="module")
def whole(environment) -> Path:
    """The Python of `pip install tensorlab-methods[lab]`."""
    return environment("lab")


def run(python, *argv, cwd, **env):
    """The command of an environment, in a folder that has nothing to do with the clone."""
    keep = {n: v for n, v in os.environ.items() if not n.startswith(("PYTHON", "TENSORLAB"))}
    command = [python.with_name("tensorlab"), *argv]
    return subprocess.run(command, cwd=cwd, env=keep | env, capture_output=True, text=True)


# -- what is in it


def test_the_source_distribution_is_the_clone(built):
    with tarfile.open(built[0]) as source:
        held = {name.partition("/")[2] for name in source.getnames()}
    apart = tracked(
        ".ci", ".github", ".devcontainer", ".git*", ".docker*", ".pre-commit*", "deploy"
    )
    assert not tracked() - apart - held
    assert not {name for name in held if "__pycache__" in name or ".ipynb_checkpoints" in name}


def test_the_wheel_holds_the_package_the_lessons_and_the_numbers(built):
    with zipfile.ZipFile(built[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    moved = {"notebooks/": "tensorlab/course/notebooks/", "data/": "tensorlab/papers/data/"}
    shipped = tracked("notebooks/*.ipynb", "notebooks/thumbs/*.png", "data/**/*.csv")
    for old, new in moved.items():
        shipped = {new + p.removeprefix(old) if p.startswith(old) else p for p in shipped}
    assert len(shipped) > 60 and held == shipped | tracked("tensorlab")


def test_what_it_says_about_itself(metadata):
    assert metadata["Name"] == "tensorlab-methods" and metadata["License-Expression"]
    assert metadata["Author"] or metadata["Author-email"]
    labels = {line.partition(",")[0] for line in metadata.get_all("Project-URL")}
    assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} <= labels
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert {"lab", "course", "bench", "llm", "all"} <= set(metadata.get_all("Provides-Extra"))
    assert "# tensorlab" in metadata.get_payload()


# -- without extras


def test_without_extras_it_imports_and_computes(bare, tmp_path):
    code = "import tensorlab as t, torch; print(t.__version__, t.tt_svd(torch.eye(4), 2).ranks)"
    done = subprocess.run([bare, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == [built_version(), "(2,)\n"]


def built_version() -> str:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    return next(line.split('"')[1] for line in lines if line.startswith("version = "))


@pytest.mark.parametrize(
    "argv", [["papers"], ["data"], ["doctor"], ["--help"], ["run", "Huang2019"]]
)
def test_without_extras_these_work(bare, argv, tmp_path):
    done = run(bare, *argv, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["lab"], "lab: needs jupyterlab, ipywidgets, "),
        (["run", "Khrulkov2018"], "Khrulkov2018: needs matplotlib, "),
        (["run", "Novikov2015"], "Novikov2015: needs scikit-learn and matplotlib, "),
        (["run", "all"], "run: needs scikit-learn and matplotlib, "),
        (["data", "get", "mnist"], "get: needs pooch, "),
    ],
)
def test_without_extras_these_say_which_in_one_sentence(bare, argv, said, tmp_path):
    done = run(bare, *argv, cwd=tmp_path, TENSORLAB_DATA=str(tmp_path / "data"))
    assert done.returncode == 1 and done.stderr.startswith(f"tensorlab {said}"), done.stderr
    assert re.search(r'; get it by: pip install "/\S+\.whl\[lab\]"\n$', done.stderr)
    assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


# -- with the extra `lab`


def test_a_run_prints_both_columns(whole, tmp_path):
    done = run(whole, "run", "Khrulkov2018", "--preset", "quick", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = done.stdout.splitlines()[0]
    printed = next(ROOT.glob("data/papers/Khrulkov2018.csv")).read_text(encoding="utf-8")
    rows = [line for line in printed.splitlines() if not line.startswith("#")]
    columns = next(csv.reader(rows))
    assert any(f"{name} (printed)" in names and f" {name} " in f" {names} " for name in columns)
    assert (tmp_path / "results" / "Khrulkov2018-quick.png").exists()


def test_the_lab_serves_the_lessons(whole, tmp_path, monkeypatch):
    from urllib.request import urlopen

    for name in ("PYTHONPATH", "TENSORLAB_DATA"):
        monkeypatch.delenv(name, raising=False)
    work = tmp_path / "mine"
    with lab(tmp_path, str(work), "--no-browser", cwd=tmp_path, python=whole) as (url, token, _):
        with urlopen(f"{url}/api/contents/00_start.ipynb?token={token}", timeout=30) as answer:
            assert b"cells" in answer.read()
    lessons = tracked(":(glob)notebooks/*.ipynb")  # without those in folders, the assignments
    assert {p.name for p in work.rglob("*.ipynb")} == {Path(name).name for name in lessons}
