"""What `import tensorlab` brings: torch, safetensors and nothing that takes long to load."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import torch
before = set(sys.modules)
import tensorlab
print(json.dumps(sorted(set(sys.modules) - before)))
"""
COMPILER = ("_dynamo", "_inductor", "_numpy", "distributed", "export", "fx", "onnx", "testing")


def brought() -> list[str]:
    """The modules that are loaded beside those of torch, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_import_loads_no_other_package_and_no_compiler():
    found = brought()
    packages = {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names)
    assert {"tensorlab", "safetensors"} <= packages
    assert {p for p in packages if not p.startswith("_")} <= {"tensorlab", "safetensors", "torch"}
    assert not [name for name in found if name.startswith(tuple(f"torch.{p}" for p in COMPILER))]
