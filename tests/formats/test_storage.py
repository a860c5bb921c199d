"""Files: whole or not at all, and never a word of code from them."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tensorlab as tl


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.safetensors"


def test_a_killed_write_leaves_the_old_file(path, monkeypatch):
    x = tl.TT.randn((3, 4), 2)
    tl.save(path, x)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tensorlab.formats.storage.save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        tl.save(path, 2 * x)
    assert torch.equal(tl.load(path).to_dense(), x.to_dense()) and [
        p.name for p in path.parent.iterdir()
    ] == [path.name]


def test_views_and_shared_memory_are_saved(path):
    m = torch.arange(12.0).reshape(3, 4)
    tl.save(path, tl.LowRank(m[:, ::2], m.T[:, :2]))
    assert torch.equal(tl.load(path).v, m.T[:, :2])


TT = {"format": "TT", "complex": "False"}
WRONG = {
    "random bytes": (b"\x93NUMPY" * 40, "whole safetensors file"),
    "empty": (b"", "whole safetensors file"),
    "a pickle": (
        b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system",
        "whole safetensors file",
    ),
    "no metadata": (None, "got None"),
    "another class": ({"format": "os.system"}, "got 'os.system'"),
    "a class of ours that is no format": ({"format": "Fit"}, "got 'Fit'"),
    "other tensors": (TT, r"tensors of a TT, got \['weight'\]"),
}


@pytest.mark.parametrize("name", WRONG)
def test_refuses_foreign_files(path, name):
    content, said = WRONG[name]
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save_file({"weight": torch.zeros(2, 2)}, path, metadata=content)
    with pytest.raises(ValueError, match=said) as caught:
        tl.load(path)
    assert "\n" not in str(caught.value)


def test_refuses_damaged_files(path):
    tl.save(path, tl.TT.randn((3, 4, 5), 2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    with pytest.raises(ValueError, match="whole safetensors file"):
        tl.load(path)
    save_file({"cores.0": torch.zeros(1, 3, 2), "cores.2": torch.zeros(2, 3, 1)}, path, metadata=TT)
    with pytest.raises(ValueError, match="not numbered from 0 to 1"):
        tl.load(path)
    save_file({"cores.0": torch.zeros(1, 3, 2), "cores.1": torch.zeros(3, 3, 1)}, path, metadata=TT)
    with pytest.raises(ValueError, match="chain from rank 1"):
        tl.load(path)


STRANGE = {
    "a tuple where a tensor belongs": (
        "LowRank",
        {"u.0": (3, 1), "v": (3, 1)},
        "a tensor as u, got tuple",
    ),
    "a tensor where a tuple belongs": (
        "TT",
        {"cores": (1, 1, 3, 1)},
        "a tuple of tensors as cores, got Tensor",
    ),
    "both": ("LowRank", {"u": (3, 1), "u.0": (3, 1), "v": (3, 1)}, "a tensor as u, got tuple"),
    "a missing tensor": ("CP", {"weights": (3,)}, "missing .*factors"),
    "one too many": ("CP", {"weights": (3,), "factors.0": (4, 3), "more": (1,)}, "more"),
    "pairs that are none": ("TT", {"cores.0": (1, 3, 1)}, "last dimension of size 2"),
    "a number within a number": ("TT", {"cores.0.1": (1, 3, 1)}, "not numbered from 0 to 0"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_refuses_strange_tensors(path, name):
    kind, shapes, said = STRANGE[name]
    metadata = {"format": kind, "complex": str(name == "pairs that are none")}
    save_file({n: torch.zeros(s) for n, s in shapes.items()}, path, metadata=metadata)
    with pytest.raises(ValueError, match=said) as caught:
        tl.load(path)
    assert str(caught.value).startswith("load: ") and "\n" not in str(caught.value)


def test_refuses_other_things(path):
    for other in (None, tl.TT, [1.0], type("TT", (), {})()):  # the last one only has the name
        with pytest.raises(TypeError, match=f"got {type(other).__name__}"):
            tl.save(path, other)
    with pytest.raises(TypeError, match="got Tensor"):
        tl.save(path, torch.zeros(3))
    with pytest.raises(FileNotFoundError):
        tl.load(path)


def test_a_state_comes_back_as_it_was(path):
    z = torch.tensor([1 + 2j, 3 - 1j]).conj()
    state = {
        "a": [torch.arange(3), {"lr": 1e-3, "betas": (0.9, 0.999), "on": True}],
        "state": {0: {"z": z, "no": None}, 7: {}},
    }
    tl.save_state(path, state)
    again = tl.load_state(path)
    assert torch.equal(again["a"][0], state["a"][0]) and again["a"][1] == state["a"][1]
    assert (
        list(again["state"]) == [0, 7]
        and torch.equal(again["state"][0]["z"], z)
        and again["state"][0]["no"] is None
    )


def test_an_optimizer_goes_on_from_its_state(path):
    def run(steps, optimizer, w):
        for _ in range(steps):
            optimizer.zero_grad()
            (w**2).sum().backward()
            optimizer.step()
        return w.detach().clone()

    def fresh(start):
        w = torch.nn.Parameter(start.clone())
        return torch.optim.Adam([w], 0.1), w

    first, w = fresh(torch.tensor([1.0, -2.0]))
    run(3, first, w)
    tl.save_state(path, {"w": w, "adam": first.state_dict()})
    state = tl.load_state(path)
    second, again = fresh(state["w"])
    second.load_state_dict(state["adam"])
    assert torch.equal(run(4, second, again), run(4, first, w))


def test_refuses_a_bad_state(path):
    with pytest.raises(TypeError, match="save_state: needs tensors, .* got set"):
        tl.save_state(path, {"a": {1, 2}})
    assert not path.exists()
    tl.save(path, tl.TT.randn((3, 4), 2))
    with pytest.raises(ValueError, match="load_state: needs a file of save_state"):
        tl.load_state(path)
    for text in ("{", '{"tensor": "5"}', '{"other": 1}'):
        save_file({"0": torch.zeros(2)}, path, metadata={"state": text})
        with pytest.raises(ValueError, match="load_state: needs a file of save_state"):
            tl.load_state(path)


ODD = {
    "sparse": (torch.eye(3).to_sparse(), "a tensor of layout torch.sparse_coo"),
    "sparse rows": (torch.eye(3).to_sparse_csr(), "a tensor of layout torch.sparse_csr"),
    "meta": (torch.empty(3, device="meta"), "a tensor on the meta device"),
    "nested": (torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "a nested tensor"),
}


@pytest.mark.parametrize("name", ODD)
def test_tensors_that_cannot_be_stored_are_refused(path, name):
    odd, said = ODD[name]
    path.write_text("old")
    with pytest.raises(TypeError, match=f"^save_state: needs dense tensors .*, got {said} as '0'$"):
        tl.save_state(path, {"a": [odd]})
    if name == "meta":
        with pytest.raises(TypeError, match="^save: needs dense tensors .*, got .* as 'cores.0'$"):
            tl.save(path, tl.TT.randn((3, 4), 2).to("meta"))
    assert path.read_text() == "old" and [p.name for p in path.parent.iterdir()] == [path.name]


def test_numbers_of_numpy_are_numbers(path):
    state = {"n": np.int64(3), "x": np.float32(0.5), np.int32(7): np.uint8(1)}
    tl.save_state(path, state)
    again = tl.load_state(path)
    assert again == {"n": 3, "x": 0.5, 7: 1} and all(
        type(v) in (int, float) for v in again.values()
    )


def test_halves_of_complex_numbers_are_stored(path):
    z = torch.tensor([1 + 2j, 3 - 1j]).to(torch.complex32)
    tl.save_state(path, {"z": z})
    assert torch.equal(torch.view_as_real(tl.load_state(path)["z"]), torch.view_as_real(z))
