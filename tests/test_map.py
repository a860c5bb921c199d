"""The map of docs/map.md holds: its paths exist, no module is missing, papers are listed, and
imports point down.

The map is the one table of the file whose columns are idea | module | notebook | test | paper. A
cell holds paths from the top of the repository, in `backticks` or as [text](link), several of them
or none; a paper cell holds keys, [Name2011]. The list of papers is every line of
docs/references.md that begins, after a list mark, with such a key.
"""

import ast
import dataclasses
import importlib
import inspect
import operator
import re
from pathlib import Path

import pytest
from sources import tree

import tensorlab

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tensorlab"
KEY = re.compile(r"\[([A-Z][A-Za-z]+[12]\d{3}[a-z]?)\]")
COLUMNS = ["idea", "module", "notebook", "test", "paper"]

# DESIGN, the layout: imports point down, from a layer to lower ones.
LAYERS = [
    "ground",
    "formats",
    "layers",
    "methods",
    "compression",
    "tensorlab",
    "parallel",
    "models plots",
]
LAYERS += ["papers", "course", "doctor", "__main__"]
GROUND = {
    "arguments",
    "clusters",
    "capture",
    "rng",
    "sketch",
    "linalg",
    "multilinear",
    "fit",
    "files",
    "extras",
    "datasets",
}
# Within a layer only along the drawn arrows: who is imported <- by whom. "*" is every module of the
# layer.
ARROWS = {
    "ground": {
        "arguments": {"*"},
        "capture": {"linalg", "multilinear"},
        "files": {"*"},
        "extras": {"datasets"},
        "sketch": {"linalg"},
        "rng": {"clusters"},
        "linalg": {"clusters"},
        "fit": {"clusters"},
    },
    "formats": {
        "base": {"*"},
        "tt": {
            "tt_cross",
            "tt_manifold",
            "tt_completion",
            "tt_sampling",
            "ttmatrix",
            "lowrank",
            "htucker",
        },
        "tt_manifold": {"tt_completion"},
        "blocktt": {"monarch"},
        "kronecker": {"lokr", "kron_sum"},
        "lowrank": {"lokr", "pivoted"},
        "cp": {"cp_stable", "cp_nls"},
        "tucker": {"cp_nls"},
        "modes": {"blocktt", "kronecker", "lokr", "monarch", "ttmatrix"},
        "*": {"storage", "exchange"},
    },
    "layers": {
        "holding": {"linear", "embedding"},
        "dense": {"select", "report", "linear", "surgery", "conv", "embedding"},
        "select": {"surgery", "report", "conv", "inputs"},
        "report": {"conv"},
        "plans": {"propagation"},
        "propagation": {"linear"},
        "linear": {"surgery", "conv"},
    },
    "methods": {
        "weighted": {"weighted_ttm", "targets", "feedback", "distill", "candidates", "certificate"},
        "weighted_ttm": {"candidates"},
        "feedback": {"coded"},
        "coded": {"candidates", "compressed_storage"},
        "quantized_storage": {"compressed_storage"},
        "kashin": {"codes"},
        "codes": {"quantize", "quantized_storage", "feedback", "coded", "compressed_storage"},
        "quantize": {"quantized_storage", "feedback", "coded", "candidates", "compressed_storage"},
        "training": {"admm", "distill", "dlrt", "projected", "pruning", "riemannian", "tangent"},
        "estimator": {"density", "expmachine", "screening"},
        "splines": {"density", "density_learners", "spline_trains"},
        "spline_trains": {"density", "density_learners"},
        "galore": {"dion"},
        "density_learners": {"density"},
        "pointcloud": {"kron_permuted"},
        "kron_spectral": {"kron_hybrid", "kron_permuted"},
        "screening": {"expmachine"},
    },
    "parallel": {
        "schedules": {"cost", "distributed", "sharding", "pipelines"},
        "cost": {"distributed"},
        "distributed": {"pipelines"},
    },
    "models": {"training": {"gpt"}},
    "papers": {
        "table": {"program", "*"},
        "processes": {"program"},
        "program": {"*"},
        "protes_problems": {"protes"},
        "kron_spectral": {"kron_models"},
        "ttm_gpt": {"footprint", "attention"},
        "dlrt": {"tangent"},
    },
    "course": {"*": {"*"}},
}


def lines(name):
    """The lines of a file of docs/."""
    return (ROOT / "docs" / name).read_text(encoding="utf-8").splitlines()


def table():
    """The rows of the map, as dicts from column to the text of the cell."""
    rows, inside = [], False
    for line in lines("map.md"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if [cell.lower() for cell in cells] == COLUMNS:
            inside = True
        elif inside and not line.strip().startswith("|"):
            break
        elif inside and not set(line) <= set("|-: "):
            assert len(cells) == len(COLUMNS), f"map.md: a row of the map needs 5 cells, got {line}"
            rows.append(dict(zip(COLUMNS, cells)))
    assert rows, f"map.md: needs a table with the columns {' | '.join(COLUMNS)}"
    return rows


def paths(cell):
    """The paths that a cell holds: link targets, and what stands in backticks without being the
    text of a link."""
    links = re.findall(r"\]\(([^)#]+)\)", cell)
    return links + re.findall(r"`([^`]+)`", re.sub(r"\[[^\]]*\]\([^)]*\)", "", cell))


def modules():
    """All modules of the package, as dotted names below it with their files."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def layer(name):
    """Which of LAYERS a dotted name is of; the package itself stands above what it gathers."""
    head = name.split(".")[0]
    head = "ground" if head in GROUND else head or "tensorlab"
    found = [i for i, names in enumerate(LAYERS) if head in names.split()]
    assert found, f"tensorlab.{name}: needs a layer of DESIGN's layout, got none"
    return found[0]


def imported(name, path):
    """The modules of ours that a module imports anywhere in it, by dotted names below the
    package."""
    known = {known for known, _ in modules()}
    here = [part for part in name.split(".") if part]
    if path.name != "__init__.py":
        here = here[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "tensorlab":
                    yield ".".join(alias.name.split(".")[1:])
        elif isinstance(node, ast.ImportFrom):
            target = node.module.split(".") if node.module else []
            if node.level:
                target = here[: len(here) - node.level + 1] + target
            elif target.pop(0) != "tensorlab":
                continue
            for alias in node.names:
                inner = ".".join([*target, alias.name])
                yield inner if inner in known else ".".join(target)


def drawn(low, high):
    """Whether an arrow of the layout lets module `high` import module `low` of its own layer."""
    a, b = low.split(".")[-1], high.split(".")[-1]
    group = low.split(".")[0] if low.split(".")[0] not in GROUND else "ground"
    arrows = ARROWS.get(group, {})
    return any({b, "*"} & arrows.get(source, set()) for source in (a, "*"))


def faults_of_imports():
    for name, path in modules():
        for target in imported(name, path):
            gathers = path.name == "__init__.py" and (
                target == name or target.startswith(name + ".")
            )
            if target == name or gathers or (name == "" and layer(target) < layer("")):
                continue
            same = layer(target) == layer(name) and target.split(".")[0] == name.split(".")[0]
            same = same or {target.split(".")[0], name.split(".")[0]} <= GROUND
            if layer(target) < layer(name) or (same and drawn(target, name)):
                continue
            yield f"tensorlab.{name} imports tensorlab.{target}".replace(
                "tensorlab. ", "tensorlab "
            )


def test_every_path_of_the_map_exists():
    wrong = []
    for row in table():
        for column in ("module", "notebook", "test"):
            wrong += [
                f"{row['idea']}: {path}"
                for path in paths(row[column])
                if not (ROOT / path).exists()
            ]
        if not (paths(row["module"]) and paths(row["test"])):
            wrong.append(f"{row['idea']}: needs a module and a test")
    assert not wrong


def test_every_module_has_a_row():
    listed = {path for row in table() for path in paths(row["module"])}
    homes = ("formats.", "layers.", "methods.", "parallel.")
    apart = {"formats.base", "formats.storage", "formats.exchange"}
    missing = [
        str(path.relative_to(ROOT))
        for name, path in modules()
        if name.startswith(homes) and path.name != "__init__.py" and name not in apart
    ]
    assert not set(missing) - listed


def test_every_key_is_in_the_list_of_papers():
    listed = (KEY.match(line.lstrip("-* ")) for line in lines("references.md"))
    papers = {match[1] for match in listed if match}
    used = {(key, row["idea"]) for row in table() for key in KEY.findall(row["paper"])}
    for name, path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                used |= {
                    (key, f"tensorlab.{name}") for key in KEY.findall(ast.get_docstring(node) or "")
                }
    assert not sorted((key, where) for key, where in used if key not in papers)


def test_imports_point_down():
    assert not list(faults_of_imports())


@pytest.mark.parametrize(
    "low, high, allowed",
    [
        ("formats.base", "formats.cp", True),
        ("formats.tt", "formats.ttmatrix", True),
        ("formats.ttmatrix", "formats.tt", False),
        ("formats.cp", "formats.storage", True),
        ("formats.cp", "formats.tucker", False),
        ("sketch", "linalg", True),
        ("linalg", "sketch", False),
        ("methods.lora", "methods.dlrt", False),
        ("methods.training", "methods.dlrt", True),
        ("methods.training", "methods.lora", False),
        ("formats.modes", "formats.cp", False),
    ],
)
def test_arrows(low, high, allowed):
    assert drawn(low, high) is allowed and layer(low) == layer(high)


def test_imports_are_found(tmp_path):
    module = tmp_path / "tt.py"
    module.write_text(
        "from .. import linalg\nfrom .base import Format\nimport torch\nimport tensorlab.rng as "
        "rng\n"
    )
    assert list(imported("formats.tt", module)) == ["linalg", "formats.base", "rng"]


# Words that say nothing without their module.
MOVED = dict.fromkeys(("Tangent", "retract", "transport"), "formats.tt_manifold")
MOVED |= dict.fromkeys(("Optimum", "Automaton"), "methods.protes")
MOVED |= dict.fromkeys(("Ticket", "hold"), "methods.pruning")
MOVED |= {"plans": "layers.plans", "Rotation": "methods.kashin", "Permuted": "methods.pointcloud"}


def groups() -> dict[str, str]:
    """The floor that the comment above each name of `__all__` says: {name: floor}."""
    text = (PACKAGE / "__init__.py").read_text().partition("__all__ = [")[2].partition("]")[0]
    floor, found = "", {}
    for line in map(str.strip, text.strip().splitlines()):
        if line.startswith("#"):
            floor = line[2:].partition(":")[0]
        else:
            found[line.strip('",')] = floor
    return found


def test_public_names_are_what_their_groups_say():
    said = groups()
    assert list(said) == tensorlab.__all__ and len(set(tensorlab.__all__)) == len(tensorlab.__all__)
    home = {n: getattr(tensorlab, n).__module__.split(".")[1] for n in said}
    floors = {
        n: h if h in ("formats", "layers", "methods", "compression") else "ground"
        for n, h in home.items()
    }
    assert said == floors


def test_what_the_package_imports_is_public():
    statements = tree(PACKAGE / "__init__.py").body
    ours = [node for node in statements if isinstance(node, ast.ImportFrom) and node.level]
    assert {a.name for node in ours for a in node.names} == set(tensorlab.__all__)


@pytest.mark.parametrize("name", sorted(MOVED))
def test_words_too_general_for_the_package_are_in_their_modules(name):
    assert not hasattr(tensorlab, name)
    assert hasattr(importlib.import_module(f"tensorlab.{MOVED[name]}"), name)


EQUATION = re.compile(r"^ {8,}\S.* (=|<=|<-|->|becomes) ", re.M)


@pytest.mark.parametrize("name", tensorlab.__all__)
def test_public_names_have_docstrings_with_an_example_or_an_equation(name):
    text = vars(getattr(tensorlab, name)).get("__doc__") or getattr(tensorlab, name).__doc__ or ""
    assert not text.startswith(f"{name}(")  # what a dataclass writes for itself
    assert ">>>" in text or EQUATION.search(text)


def parameters(f) -> list[str]:
    return [name for name in inspect.signature(f).parameters if name not in ("self", "cls")]


# Their functions are documented by what they teach or measure, not one by one.
APART = ("course", "papers", "doctor", "__main__")


def callables():
    """Public functions, classes and their methods of every module: (name below the package,
    object). What a dataclass or a named tuple writes for itself is no function that a user
    calls, and neither does an exception."""
    for module, path in modules():
        if path.name == "__init__.py" or module.startswith(APART):
            continue
        home = importlib.import_module(f"tensorlab.{module}")
        for name, found in vars(home).items():
            if name.startswith("_") or getattr(found, "__module__", None) != home.__name__:
                continue
            if inspect.isclass(found):
                if not (dataclasses.is_dataclass(found) or issubclass(found, (tuple, Exception))):
                    yield f"{module}.{name}", found
                for inner in vars(found):
                    if not inner.startswith("_") and callable(getattr(found, inner)):
                        yield f"{module}.{name}.{inner}", getattr(found, inner)
            elif callable(found):
                yield f"{module}.{name}", found


def listed(f) -> set[str]:
    """The parameters with which lines of a docstring begin: "rank: ...", "out, in_: ...", "x, tol:
    as in `cp_als`." """
    heads = re.findall(r"^(\w+(?:, \w+)*): ", inspect.getdoc(f) or "", re.M)
    return {name for head in heads for name in head.split(", ")}


CALLABLES = dict(callables())
LONG = {name: f for name, f in CALLABLES.items() if len(parameters(f)) > 4}


def test_functions_of_every_floor_are_looked_at():
    """And each public name of the package once, under its module."""
    floors = {name.split(".")[0] for name in CALLABLES} - GROUND
    assert floors == {"formats", "layers", "methods", "models", "parallel", "compression", "plots"}
    assert GROUND - {"fit"} <= {name.split(".")[0] for name in CALLABLES}
    public = [getattr(tensorlab, name) for name in tensorlab.__all__]
    plain = [f for f in public if not inspect.isclass(f)]
    assert not [f for f in plain if f not in CALLABLES.values()]


def referred(name: str, other: str):
    """The function that a docstring of `name` means by `other`: of its module, or of the package,
    or of a module that it imports."""
    home = importlib.import_module(LONG[name].__module__)
    for place in (home, tensorlab):
        try:
            return operator.attrgetter(other)(place)
        except AttributeError:
            continue
    (found,) = {f for known, f in CALLABLES.items() if known.endswith(f".{other}")}
    return found


@pytest.mark.parametrize("name", LONG)
def test_more_than_four_parameters_are_listed_one_to_a_line(name):
    assert not set(parameters(LONG[name])) - listed(LONG[name])


@pytest.mark.parametrize("name", LONG)
def test_what_a_docstring_refers_to_lists_it(name):
    """A parameter "as in `f`" is one that f lists."""
    text = re.sub(r"\n +", " ", inspect.getdoc(LONG[name]))
    for head, other in re.findall(r"^(\w+(?:, \w+)*): as in `([\w.]+)`", text, re.M):
        if not other.startswith("torch."):
            assert set(head.split(", ")) <= listed(referred(name, other))


@pytest.mark.parametrize("name", ["plots", "course.widgets"])
def test_the_package_does_not_import_what_is_imported_by_name(name):
    reached, front = set(), [""]
    known = dict(modules())
    while front:
        here = front.pop()
        if here in known and here not in reached:
            reached.add(here)
            front += imported(here, known[here])
    assert name not in reached
