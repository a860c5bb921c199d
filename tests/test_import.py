"""What `import tensorlab` brings: torch, safetensors and nothing that takes long to load.

What is left is the time to read our own files: 0.07 s of processor time from cached bytecode. Where
PYTHONDONTWRITEBYTECODE is set, each process compiles them anew, which takes four times as long.
"""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import torch
before = set(sys.modules)
import tensorlab
print(json.dumps(sorted(set(sys.modules) - before)))
"""
OURS = {
    "compression",
    "fit",
    "arguments",
    "capture",
    "files",
    "formats",
    "layers",
    "linalg",
    "methods",
}
OURS |= {"multilinear", "rng", "clusters", "datasets", "extras", "sketch"}
OTHERS = {
    *("safetensors", "safetensors._safetensors_rust", "safetensors.torch"),  # 2 ms
    *("torch.nn.utils.prune", "hmac", "secrets"),  # 6 ms: masks that others set, names of files
}
HEAVY = ("_dynamo", "_inductor", "_numpy", "distributed", "export", "fx", "onnx", "testing")


@pytest.fixture(scope="module")
def brought() -> set[str]:
    """The modules that are loaded beside those of torch, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


@pytest.mark.thorough
def test_the_import_loads_these_modules_alone_beside_those_of_torch(brought):
    """Another module needs a reason and a line above; what one function needs, it imports."""
    others = {name for name in brought if name.partition(".")[0] != "tensorlab"}
    assert "safetensors" in others
    assert others <= OTHERS
    assert {name.split(".")[1] for name in brought if "tensorlab." in name} <= OURS


@pytest.mark.thorough
@pytest.mark.parametrize("part", HEAVY)
def test_the_import_loads_no_compiler_and_nothing_heavy_of_torch(brought, part):
    assert not [name for name in brought if name.startswith(f"torch.{part}")]
