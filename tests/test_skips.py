"""No test is left out unseen: under `TENSORLAB_NO_SKIP=1` a skip is a failure, but for a missing
GPU or data folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CASES = """
import pytest

def test_runs(generator, dtype): pass
def test_idle(): pytest.skip("no wish to")
def test_data(data_folder): pass
@pytest.mark.cuda
def test_gpu(): pass
@pytest.mark.xfail
def test_known(): assert 0
"""
MODULE = 'import pytest\npytest.importorskip("no_such_module")\n'


STRICT = {
    "0": "1 passed, 4 skipped, 1 xfailed",
    "1": "1 failed, 1 passed, 2 skipped, 1 xfailed, 1 error",
}


@pytest.mark.thorough
@pytest.mark.parametrize("strict", STRICT)
def test_skips(tmp_path, strict):
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "test_module.py").write_text(MODULE)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = cuda: needs a GPU\n")
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "TENSORLAB"))
    }
    env |= {"TENSORLAB_NO_SKIP": strict, "CUDA_VISIBLE_DEVICES": ""}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert STRICT[strict] in done.stdout and done.returncode == int(strict), done.stdout
    if strict == "1":
        assert "no wish to" in done.stdout and "no_such_module" in done.stdout


@pytest.mark.xdist_group("one")
def test_groups_stay_in_one_worker(request):
    """xdist knows a group by the end of a test's name; pytest 9.2 takes no other name from it."""
    if hasattr(request.config, "workerinput"):
        assert request.node.nodeid.endswith("@one")
