"""A killed training goes on from its checkpoint, in a new process, to the same numbers bit for bit.

This file is also the program that is killed: `python test_dlrt_resume.py FOLDER METHOD EPOCH`
trains, and hangs in the middle of an epoch.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

import tensorlab as tl
from tensorlab.models.mlp import MLP

EPOCHS, STEPS = 6, 4


def kls(model, adam, x):
    return tl.DLRT(model, adam, theta=0.25, every=3)


def windows(model, adam, x):
    options = dict(total=EPOCHS * STEPS, window=3, spares=1, inputs=lambda: model(x))
    return tl.TangentDLRT(model, adam, theta=0.2, **options)


METHODS = {"DLRT": kls, "TangentDLRT": windows}


def train(folder: Path, name: str, hang_in: int | None = None) -> None:
    """Six epochs of four steps, from the last checkpoint in the folder on; the losses of an epoch
    are a line of `losses.txt`."""
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    model = MLP((9, 12, 12, 4), generator=g)
    start = lambda w: tl.dlrt_start(w.shape, 6, decay=1.5, generator=g)
    thin = start if name == "DLRT" else lambda w: start(w).merged()
    tl.replace_linear(model, "layers.[01]", thin)
    x, y = tl.rng.randn(40, 9, generator=torch.Generator().manual_seed(1)), torch.arange(40) % 4
    dlrt = METHODS[name](model, torch.optim.Adam(model.parameters(), 0.02), x)
    first, path = 0, folder / "run.safetensors"
    if path.exists():
        state = tl.load_state(path)
        model.load_state_dict(state["model"])
        dlrt.load_state_dict(state["dlrt"])
        g.set_state(state["generator"])
        first = state["epoch"]
    for epoch in range(first, EPOCHS):
        losses = []
        for k, rows in enumerate(torch.randperm(40, generator=g).split(40 // STEPS)):
            losses.append(
                float(
                    dlrt.step(
                        lambda rows=rows: nn.functional.cross_entropy(model(x[rows]), y[rows])
                    )
                )
            )
            if epoch == hang_in and k == STEPS // 2:
                (folder / "hangs").touch()
                time.sleep(300)
        state = {
            "model": model.state_dict(),
            "dlrt": dlrt.state_dict(),
            "generator": g.get_state(),
            "epoch": epoch + 1,
        }
        tl.save_state(path, state)
        with open(folder / "losses.txt", "a") as file:
            print(epoch, *map(float.hex, losses), *dlrt.ranks.values(), file=file)


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("name", METHODS)
def test_a_killed_training_ends_with_the_same_numbers(name, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    threads = torch.get_num_threads()
    train(whole, name)
    torch.set_num_threads(threads)
    child = subprocess.Popen([sys.executable, __file__, killed, name, "3"])
    end = (
        time.monotonic() + 300
    )  # of a child that never gets there; importing torch on a busy machine takes a minute
    while not (killed / "hangs").exists():
        assert child.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    lines = (whole / "losses.txt").read_text().splitlines()
    assert (killed / "losses.txt").read_text().splitlines() == lines[:3]
    subprocess.run([sys.executable, __file__, killed, name], check=True)
    assert (killed / "losses.txt").read_text().splitlines() == lines
    ends = [tl.load_state(folder / "run.safetensors") for folder in (whole, killed)]
    assert all(torch.equal(t, ends[1]["model"][name]) for name, t in ends[0]["model"].items())
    first = {tuple(line.split()[-2:]) for line in lines}
    assert len(first) > 1  # the ranks did change, between checkpoints and after the last


if __name__ == "__main__":
    train(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
