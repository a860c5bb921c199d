"""TT-SVD of what does not fit into the memory: slabs that are read one by one, and files."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import tensorlab as tl
from tensorlab.formats import tt as module


def smooth(shape, dtype=torch.float64):
    total = sum(torch.meshgrid(*(torch.arange(float(n)) / n for n in shape), indexing="ij"))
    return (1 / (1 + total.double())).to(dtype)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
@pytest.mark.parametrize("rtol", [1e-3, 1e-8, 0.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.complex128])
def test_slabs_keep_the_bound_of_the_whole(size, rtol, dtype):
    x = smooth((12, 5, 6, 7), dtype)
    x = x * 1j + x.flip(1) if dtype.is_complex else x
    tt = tl.tt_svd(iter(x.split(size)), rtol=rtol)
    eps = torch.finfo(dtype).eps
    assert tt.shape == x.shape and tt.dtype == dtype
    error = (tt.to_dense().to(torch.complex128) - x).norm() / x.norm()
    assert error <= rtol + 64 * (2 + 4) * eps
    if rtol:
        # the last cut may lose 3/4 rtol / sqrt(3) at each bond, 1/4 rtol is lost before it
        whole = tl.tt_svd(x, rtol=rtol / 4).ranks
        assert all(r <= q for r, q in zip(tt.ranks, whole))


def test_slabs_of_any_sizes_and_scales_are_one_tensor(generator):
    x = torch.randn(9, 4, 5, generator=generator, dtype=torch.float64)
    x[4:] *= 1e-9
    x[8] = 0
    tt = tl.tt_svd(list(x.split([1, 4, 2, 2])), rtol=1e-12)
    assert float((tt.to_dense() - x).norm() / x.norm()) < 1e-12 + 64 * 4 * 2.3e-16


def test_a_rank_is_a_cap_for_slabs_too():
    x = smooth((16, 8, 8, 8))
    tt = tl.tt_svd((slab for slab in x.split(4)), 3)
    best = (tl.tt_svd(x, 3).to_dense() - x).norm()
    assert max(tt.ranks) == 3 and (tt.to_dense() - x).norm() < 2 * best
    assert tl.tt_svd(x.split(4), (2, 3, 1)).ranks == (2, 3, 1)


def test_vectors_come_in_slabs_as_well():
    x = torch.arange(6.0, dtype=torch.float64)
    assert torch.allclose(tl.tt_svd(x.split(2), rtol=0.0).to_dense(), x)


def test_a_file_is_read_in_slabs(tmp_path, monkeypatch):
    x = smooth((30, 20, 10))
    file = np.memmap(tmp_path / "x", np.float64, "w+", shape=x.shape)
    file[:] = x.numpy()
    monkeypatch.setattr(module, "READ", 500)
    tt = tl.tt_svd(np.memmap(tmp_path / "x", np.float64, "r", shape=x.shape), rtol=1e-6)
    assert (tt.to_dense() - x).norm() <= 1.01e-6 * x.norm()


@pytest.mark.parametrize(
    "slabs, error, said",
    [
        ([], ValueError, "needs one slab at least, got none"),
        ([1, 2], TypeError, "needs a torch tensor as slab, got int"),
        ([torch.ones(2, 3), torch.ones(2, 4)], ValueError, r"\(2, 3\) and \(2, 4\)"),
        ([torch.ones(2, 3), torch.ones(2)], ValueError, "alike but for mode 0"),
        ([torch.ones(2, 3), torch.full((1, 3), torch.nan)], ValueError, "finite"),
        (np.ones((2, 3)), TypeError, "needs a torch tensor, got ndarray"),
    ],
)
def test_what_is_no_stack_of_slabs_is_refused(slabs, error, said):
    with pytest.raises(error, match=said):
        tl.tt_svd(slabs, rtol=1e-3)


LIMITED = """
import re, resource, sys
import numpy as np, torch
import tensorlab as tl

torch.set_num_threads(1)
x = np.memmap(sys.argv[1], np.float64, "r", shape=(256, 64, 64, 32))
tl.tt_svd(torch.from_numpy(np.array(x[:8])), rtol=1e-6)  # what LAPACK and torch load once
kib = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (kib * 1024 + x.nbytes // 4,) * 2)
try:
    np.array(x)
except MemoryError:
    print("too large")
tt = tl.tt_svd(x, rtol=1e-6)
for k in (0, 100, 255):  # rows one by one
    part = tl.TT((tt.cores[0][:, k : k + 1], *tt.cores[1:])).to_dense()[0].numpy()
    print(np.linalg.norm(part - x[k]) / np.linalg.norm(x[k]) < 1e-5)
"""


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of memory as Linux has them")
def test_a_file_of_four_times_the_memory_is_factorized(tmp_path):
    """256 MiB of numbers where 64 MiB may be had, in which the whole cannot be read."""
    file = np.memmap(tmp_path / "x", np.float64, "w+", shape=(256, 64, 64, 32))
    rest = np.add.outer(np.add.outer(np.arange(64) / 64, np.arange(64) / 64), np.arange(32) / 32)
    for k in range(256):
        file[k] = 1 / (1 + k / 256 + rest)
    file.flush()
    command = [sys.executable, "-c", LIMITED, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["too large", "True", "True", "True", ""]
