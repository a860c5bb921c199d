"""Files are written whole or not at all, and are left as `open(path, "w")` leaves them; every
writer of the package."""

import os
import stat
import sys

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.files import replaced
from tensorlab.papers.table import Table

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs the modes of POSIX")


def lora(path):
    tl.save_lora(path, tl.add_lora(nn.Sequential(nn.Linear(6, 4)), "0", 2))


def quantized(path):
    tl.quantize_model(model := nn.Sequential(nn.Linear(16, 4)))
    tl.save_quantized(path, model)


def text(path):
    with replaced(path) as part:
        part.write_text("whole")


WRITERS = {
    "replaced": text,
    "save": lambda path: tl.save(path, tl.TT.randn((3, 4), 2)),
    "save_state": lambda path: tl.save_state(path, {"a": torch.ones(3)}),
    "save_lora": lora,
    "save_quantized": quantized,
    "Table.save": lambda path: Table("Name2020", [{"rank": 1}]).save(path),
}
READERS = {
    "load": tl.load,
    "load_state": tl.load_state,
    "load_lora": lambda path: tl.load_lora(path, nn.Linear(2, 2)),
    "load_quantized": lambda path: tl.load_quantized(path, nn.Linear(2, 2)),
    "load_compressed": lambda path: tl.load_compressed(path, nn.Linear(2, 2)),
}
every = pytest.mark.parametrize("name", WRITERS)


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


@pytest.fixture(params=[0o022, 0o002, 0o077, 0o027], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@posix
@every
def test_a_new_file_has_the_mode_of_the_umask(name, umask, tmp_path):
    WRITERS[name](tmp_path / "x")
    assert mode(tmp_path / "x") == 0o666 & ~umask
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@posix
@every
@pytest.mark.parametrize("kept", [0o664, 0o600, 0o640], ids=oct)
def test_an_old_file_keeps_its_mode(name, kept, umask, tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(kept)
    WRITERS[name](path)
    assert mode(path) == kept and path.read_bytes() != b"old"


@posix
@every
def test_a_link_stays_and_its_target_is_replaced(name, tmp_path):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "x", tmp_path / "link"
    link.symlink_to(target)
    for _ in range(2):  # the first time to nothing yet
        WRITERS[name](link)
        assert link.is_symlink() and target.is_file() and target.read_bytes() != b"old"
        target.write_text("old")
        target.chmod(0o664)
    assert mode(target) == 0o664
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["link", "there", "x"]


@every
def test_a_path_may_be_text_and_relative(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    WRITERS[name]("x")
    assert (tmp_path / "x").stat().st_size


@every
def test_a_folder_that_is_missing_is_named(name, tmp_path):
    path = tmp_path / "missing" / "x"
    if name == "Table.save":
        return  # makes the folder
    with pytest.raises(FileNotFoundError, match="missing/x"):
        WRITERS[name](path)


@pytest.mark.parametrize("name", READERS)
def test_readers_say_which_file_there_is_not_and_which_is_not_whole(name, tmp_path):
    for path in (tmp_path / "x", tmp_path):  # a folder is no file
        with pytest.raises(FileNotFoundError) as caught:
            READERS[name](path)
        assert str(caught.value) == f"{name}: needs a file, got none at {path}"
    WRITERS["save_state"](tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=f"^{name}: needs a whole safetensors file, got .*x: "):
        READERS[name](tmp_path / "x")


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    path = tmp_path / "x"
    for old in (None, "old"):
        if old:
            path.write_text(old)
        for error in (ValueError, KeyboardInterrupt):
            with pytest.raises(error):
                with replaced(path) as part:
                    part.write_text("half")
                    raise error
            assert [p.read_text() for p in tmp_path.iterdir()] == ([old] if old else [])


@posix
def test_what_is_no_file_is_written_to(tmp_path):
    text("/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(IsADirectoryError):
        text(tmp_path)


def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_text("old")

    def refused(name, *args):  # as for anyone but root, whom no mode stops
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr("tensorlab.files.open", refused, raising=False)
    with pytest.raises(PermissionError, match="x"):
        text(path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x"]
