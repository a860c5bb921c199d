"""The numerical tests under other instruction sets and numbers of threads: `make portability`.

    python tests/portability.py                        every setting
    python tests/portability.py --list                 their names
    python tests/portability.py compatible avx2 -- -n 2 tests/formats          some, with pytest's
                                                       options after two dashes

MKL_CBWR and MKL_ENABLE_INSTRUCTIONS choose the code of MKL, ATEN_CPU_CAPABILITY that of torch's own
kernels. Not every processor obeys every variable, so a probe of products, an SVD and long sums runs
first: where its digits are those without the variables, on as many threads, the table says so. The
settings together hold every value once; ends with status 1 if a test failed.
"""

import argparse
import os
import re
import subprocess
import sys

SETTINGS = {
    "own": {},
    "compatible": {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    "sse4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "threads": "2"},
    "avx2": {
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "threads": "4",
    },
    "avx512": {"MKL_ENABLE_INSTRUCTIONS": "AVX512", "ATEN_CPU_CAPABILITY": "avx512"},
    "2-threads": {"threads": "2"},
    "4-threads": {"threads": "4"},
}
TESTS = ["tests/test_linalg.py", "tests/test_format_contract.py", "tests/test_identities.py"]
TESTS += ["tests/formats", "tests/layers", "tests/methods"]
PROBE = """
import hashlib, torch
g = torch.Generator().manual_seed(0)
a, b = (torch.randn(300, 200, dtype=t, generator=g) for t in (torch.float64, torch.float32))
found = [a.T @ a, b.T @ b, torch.linalg.svdvals(a), a.exp().sum(), b.exp().sum(0)]
digest = hashlib.sha256(b"".join(t.numpy().tobytes() for t in found)).hexdigest()
print(torch.backends.cpu.get_cpu_capability(), digest)
"""


def environment(setting: dict) -> dict:
    """The variables of a setting, one thread unless it says more."""
    threads = setting.get("threads", "1")
    counts = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    own = {name: value for name, value in os.environ.items() if name not in NAMES}
    return own | counts | {name: v for name, v in setting.items() if name != "threads"}


NAMES = {name for setting in SETTINGS.values() for name in setting}


def probe(setting: dict) -> list[str]:
    """Which of its kernels torch takes, and a digest of some numbers."""
    command = [sys.executable, "-c", PROBE]
    run = subprocess.run(
        command, env=environment(setting), capture_output=True, text=True, check=True
    )
    return run.stdout.split()


def run(setting: dict, options: list[str]) -> tuple[str, list[str]]:
    """pytest's closing line under a setting, and the tests that failed."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, env=environment(setting), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    failed = [line for line in lines if re.match("(FAILED|ERROR) ", line)]
    closing = [line for line in lines if re.search(r"\d+ (passed|failed|error)", line)]
    if not closing:
        raise RuntimeError(f"portability: needs a run of pytest, got {done.stdout}{done.stderr}")
    return closing[-1].strip("= "), failed


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("settings", nargs="*", help="names of settings; all by default")
    options.add_argument("--list", action="store_true", help="print the names of the settings")
    mine, theirs = sys.argv[1:], []
    if "--" in mine:
        cut = mine.index("--")
        mine, theirs = mine[:cut], mine[cut + 1 :]
    asked = options.parse_args(mine)
    if wrong := [name for name in asked.settings if name not in SETTINGS]:
        options.error(f"needs settings of {', '.join(SETTINGS)}, got {wrong[0]!r}")
    if asked.list:
        print("\n".join(SETTINGS))
        return 0
    if not any(os.path.exists(option.split("::")[0]) for option in theirs):
        theirs += [test for test in TESTS if os.path.exists(test)]
    status = 0
    for name in asked.settings or SETTINGS:
        kernels, digest = probe(SETTINGS[name])
        _, plain = probe({"threads": SETTINGS[name].get("threads", "1")})
        moved = "no digit moved" if digest == plain else "digits moved"
        closing, failed = run(SETTINGS[name], theirs)
        print(f"{name:18} torch {kernels}, {moved}: {closing}", flush=True)
        print("".join(f"    {line}\n" for line in failed), end="", flush=True)
        status |= bool(failed)
    return status


if __name__ == "__main__":
    sys.exit(main())
