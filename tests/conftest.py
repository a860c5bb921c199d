"""Fixtures for all, and the rule of skips: under `TENSORLAB_NO_SKIP=1` only a missing GPU, data
folder or package of the `bench` extra, which need not build everywhere, is one."""

import os
import shutil
from pathlib import Path

import pytest
import torch

os.environ.setdefault("TENSORLAB_FAST", "1")  # a bare `pytest` runs what `make test` runs
os.environ.setdefault("TENSORLAB_STRICT", "1")

_NEEDS_GPU, _NEEDS_DATA, _NEEDS_BENCH = (
    "needs a GPU",
    "needs the data folder",
    "needs the bench extra",
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def dtype():
    return torch.float64


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    return torch.device(request.param)


@pytest.fixture
def data_folder():
    """The data folder; a test that asks for it is skipped where there is none."""
    folder = os.environ.get("TENSORLAB_DATA")
    if not folder:
        pytest.skip(f"{_NEEDS_DATA} (set TENSORLAB_DATA)")
    return Path(folder)


@pytest.fixture(scope="session")
def chromium():
    """Path of the browser."""
    found = (
        shutil.which("chromium")
        or shutil.which("chromium-browser")
        or shutil.which("google-chrome")
    )
    if not found:
        pytest.skip(
            "needs chromium: `apt-get install chromium` on Debian, or your system's package of "
            "that name"
        )
    return found


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip(_NEEDS_GPU)


def _excused(reason):
    absent = not os.environ.get("TENSORLAB_DATA")
    no_gpu = _NEEDS_GPU in reason and not torch.cuda.is_available()
    return no_gpu or (_NEEDS_DATA in reason and absent) or _NEEDS_BENCH in reason


def _forbid_skip(report):
    if (
        os.environ.get("TENSORLAB_NO_SKIP") != "1"
        or not report.skipped
        or hasattr(report, "wasxfail")
    ):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not _excused(reason):
        report.outcome, report.longrepr = (
            "failed",
            f"skipped, where every test should run. {reason}",
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    report = yield
    _forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    report = yield
    _forbid_skip(report)
    return report


@pytest.fixture(scope="session")
def two():
    """Two processes that take jobs, shared by all tests of a worker."""
    from tensorlab.parallel.distributed import Ranks

    with Ranks(2, timeout=120) as ranks:
        yield ranks
