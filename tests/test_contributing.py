"""A stranger's walk through CONTRIBUTING: its two programs are run as they are printed, and meet
the tables that a format and a method of ours meet."""

import inspect
import itertools
import re
import sys
import types
from pathlib import Path

import pytest
import test_format_contract as contract
import test_surgeons as surgeons
import torch
from torch import nn

import cases
import tensorlab as tl

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
F64 = torch.float64


def module(name: str, text: str):
    """A module of a stranger's, which Python's pickle and torch's compiler find by its name."""
    made = sys.modules[name] = types.ModuleType(name)
    exec(compile(text, "CONTRIBUTING.md", "exec"), vars(made))
    return made


Diagonal = module("strangers_format", BLOCKS[0]).Diagonal
keep_energy = module("strangers_method", BLOCKS[1]).keep_energy


def rows(test, **given):
    """What pytest would give to a test by the test's own marks, beside what is given."""
    marks = [m for m in getattr(test, "pytestmark", []) if m.name == "parametrize"]
    axes = []
    for names, values, *_ in (mark.args for mark in marks):
        names = [n.strip() for n in names.split(",")] if isinstance(names, str) else list(names)
        if not given.keys() & set(names):
            values = [getattr(v, "values", v) for v in values]
            axes.append([dict(zip(names, v if isinstance(v, tuple) else (v,))) for v in values])
    wanted = inspect.signature(test).parameters
    given = {name: value for name, value in given.items() if name in wanted}
    return [given | {k: v for d in row for k, v in d.items()} for row in itertools.product(*axes)]


def taking(module, parameter):
    """The tests of a module that take a parameter."""
    found = (f for name, f in vars(module).items() if name.startswith("test_"))
    return [f for f in found if parameter in inspect.signature(f).parameters]


@pytest.mark.parametrize("block", BLOCKS)
def test_each_takes_less_than_thirty_lines(block):
    assert len([line for line in block.splitlines() if line.strip()]) < 30


CONTRACT = [t for t in taking(contract, "name") if t is not contract.test_save_and_load]


@pytest.mark.parametrize("test", CONTRACT, ids=lambda t: t.__name__)
def test_the_format_keeps_the_contract(test, monkeypatch):
    row = lambda **options: Diagonal.randn((5, 5), **options)
    monkeypatch.setitem(cases.FORMATS, "Diagonal", row)
    every = rows(test, name="Diagonal", device=torch.device("cpu"))
    assert every
    for arguments in every:
        test(**arguments)


def test_the_format_is_refused_by_save_and_stored_with_its_model(tmp_path):
    """The list of classes that a file may name is fixed; a state dict names none."""
    w = Diagonal(torch.arange(1.0, 5.0))
    with pytest.raises(TypeError, match="save: needs one of .*TTMatrix.*, got Diagonal"):
        tl.save(tmp_path / "w.safetensors", w)
    layer, other = tl.FactorizedLinear(w), tl.FactorizedLinear(Diagonal(torch.zeros(4)))
    tl.save_state(tmp_path / "layer.safetensors", layer.state_dict())
    other.load_state_dict(tl.load_state(tmp_path / "layer.safetensors"))
    assert torch.equal(other.weight.d, w.d)


def test_the_format_inside_a_model():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6, dtype=F64), nn.Tanh(), nn.Linear(6, 2, dtype=F64))
    d, x = model[0].weight.diagonal().detach().clone(), torch.randn(3, 6, dtype=F64)
    want = model[2](torch.tanh(d * x + model[0].bias))
    tl.replace_linear(model, "0", Diagonal.from_dense)
    assert torch.allclose(model(x), want, atol=1e-14)  # 6 products of numbers below 1, to rounding
    row = tl.layer_report(model)["0"]
    assert (row.kind, row.parameters, row.dense, row.flops) == ("Diagonal", 6, 36, 6)
    assert tl.layer_flops(model, x) == {"0": 3 * 6, "2": 2 * 3 * 12}
    groups = tl.param_groups(model, 0.1)
    assert [g["multiplier"] for g in groups if g["params"][0] is model[0].weight.d] == [6.0]


OF_A_REPLACER = [
    surgeons.test_a_computed_weight_is_taken_as_it_is,
    surgeons.test_what_trained_trains_and_what_was_frozen_is,
    surgeons.test_an_overridden_forward_is_refused_with_nothing_changed,
    surgeons.test_hooks_go_over_and_their_handles_end_them,
]


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("test", OF_A_REPLACER, ids=lambda t: t.__name__)
def test_the_method_meets_the_table_of_surgeons(test, kind):
    every = rows(test, kind=kind, act=lambda model: keep_energy(model, "0", 1.0))
    assert every
    for arguments in every:
        test(**arguments)


def test_the_method_stays_one_under_two_names_and_names_itself_in_errors():
    surgeons.test_a_module_under_two_names_stays_one(
        "linear", lambda model, names: keep_energy(model, names, 1.0), ["0"]
    )
    model = nn.Sequential(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="^keep_energy: needs a name of a dense linear layer"):
        keep_energy(model, "missing", 0.5)


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_method_keeps_the_energy_that_it_promises(share):
    torch.manual_seed(0)
    w = nn.Linear(8, 8, bias=False, dtype=F64)
    s = torch.linalg.svdvals(w.weight.detach()).square().cumsum(0)
    need = 1 + int((s < share * s[-1]).sum())
    assert keep_energy(nn.Sequential(w), "0", share)[0].weight.ranks == (need,)
    with pytest.raises(ValueError, match="share must be in .0, 1., got 0"):
        keep_energy(nn.Sequential(w), "0", 0)


def test_every_path_and_command_that_it_names_is_there():
    named = re.findall(
        r"`((?:tests|tensorlab|notebooks|formats|layers|methods|course|papers|data|docs)/[^`]*)`",
        TEXT,
    )
    paths = [p for p in named if "<" not in p]
    assert paths and all((ROOT / p).exists() or (ROOT / "tensorlab" / p).exists() for p in paths)
    folders = [Path(p).parent for p in named if "<" in p]
    assert all((ROOT / p).is_dir() for p in folders)
    made = re.findall(r"^make (\w+)", TEXT, re.M)
    assert made and all(re.search(rf"^{m}:", (ROOT / "Makefile").read_text(), re.M) for m in made)
