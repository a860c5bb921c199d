"""What a lookup in a vocabulary that is a train costs: seconds and bytes, forward and backward,
beside a dense table.

    python tests/benchmarks/bench_embedding.py              every shape and batch
    python tests/benchmarks/bench_embedding.py --repeats 3

25 000 words of width 256 at the shapes of [Hrinchuk2020], rank 16. `dense`: `nn.Embedding` and h
Eᵀ. `gather`: `TTEmbedding`. `table`: the same train, but the whole table is formed at each call and
indexed. Bytes are those of all tensors alive at once beside the parameters; gradients of parameters
count. Every row is printed and appended to embedding.csv beside this file.
"""

import argparse
import csv
import datetime
import platform
import statistics
import time
from pathlib import Path

TABLE = Path(__file__).with_name("embedding.csv")
COLUMNS = [
    "date",
    "machine",
    "threads",
    "work",
    "shape",
    "batch",
    "method",
    "numbers",
    "seconds",
    "mib",
    "to_dense",
]
SHAPES = {
    3: ((25, 30, 40), (4, 8, 8)),
    4: ((10, 10, 15, 20), (4, 4, 4, 4)),
    6: ((5, 5, 5, 5, 6, 8), (2, 2, 2, 2, 4, 4)),
}


def machine() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    names = (
        [line for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return f"{names[0].split(':')[1].strip()}, {len(names)} cores" if names else platform.machine()


def methods(work: str, cores: int, batch: int):
    """An input, and name -> (module, function of it to time)."""
    import torch

    from tensorlab.layers.embedding import TTEmbedding

    g = torch.Generator().manual_seed(0)
    train, dense = (
        TTEmbedding.randn(25000, 256, *SHAPES[cores], 16, generator=g),
        torch.nn.Embedding(25000, 256),
    )
    if work == "lookup":
        ids = torch.randint(25000, (batch,), generator=g)
        table = lambda ids: train.weight.to_dense()[ids]
        return ids, {"dense": (dense, dense), "gather": (train, train), "table": (train, table)}
    h = torch.randn(batch, 256, generator=g, requires_grad=True)
    return h, {"dense": (dense, lambda h: h @ dense.weight.mT), "head": (train, train.head)}


def main():
    import torch

    from tensorlab.layers.ledger import MIB, peak_bytes

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    for work, batches in (("lookup", (512, 16384)), ("head", (1, 16, 128))):
        for cores in SHAPES:
            for batch in batches:
                base = None
                x, ways = methods(work, cores, batch)
                for name, (module, f) in ways.items():
                    step, seconds = lambda f=f, x=x: f(x).square().sum().backward(), []
                    for _ in range(given.repeats + 1):  # the first warms up
                        module.zero_grad()
                        start = time.perf_counter()
                        step()
                        seconds.append(time.perf_counter() - start)
                    module.zero_grad()
                    there = filter(torch.is_tensor, [x, x.grad, *module.parameters()])
                    mib = peak_bytes(step, there) / MIB
                    took = statistics.median(seconds[1:])
                    base = base or took
                    row = dict(
                        date=datetime.date.today().isoformat(),
                        machine=machine(),
                        threads=torch.get_num_threads(),
                        work=work,
                        shape=" ".join("x".join(map(str, modes)) for modes in SHAPES[cores]),
                        batch=batch,
                        method=name,
                        numbers=sum(p.numel() for p in module.parameters()),
                        seconds=f"{took:.4g}",
                        mib=f"{mib:.1f}",
                        to_dense=f"{took / base:.3g}",
                    )
                    new = not TABLE.exists()
                    with TABLE.open("a", newline="", encoding="utf-8") as file:
                        writer = csv.DictWriter(file, COLUMNS)
                        if new:
                            writer.writeheader()
                        writer.writerow(row)
                    print(*row.values(), sep="  ", flush=True)


if __name__ == "__main__":
    main()
