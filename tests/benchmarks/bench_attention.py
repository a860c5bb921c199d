"""Attention against the plain way to the same numbers: multi-linear attention without its cube,
absorbed against expanded latents, generation with a cache and without.

    python tests/benchmarks/bench_attention.py
    python tests/benchmarks/bench_attention.py --repeats 5

Seconds are the least CPU time over the repeats, one thread, the two ways in turn so that both see
the same machine; MiB are those of the tensors alive at the peak. `ratio` is rival / ours: above 1
ours is faster. The table goes to attention.csv.
"""

import argparse
import datetime
import platform
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from tensorlab.layers.attention import LatentAttention, MultiLinearAttention
from tensorlab.layers.ledger import MIB, peak_bytes
from tensorlab.models.gpt import GPT
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("attention.csv")
WIDTH, RANK = 256, 40  # of the layer of 2019


def multi_linear(context, batch, training, masked):
    """The layer, and the cube with the same weights: einsum, mask, one dense layer, whose columns
    are in the order of the cube."""
    layer = MultiLinearAttention(WIDTH, context, RANK, causal=masked)
    x = torch.randn(batch, context, WIDTH)
    pairs = layer.pairs[0] * context + layer.pairs[1]
    w = layer.out.weight.detach()[:, pairs.argsort()].clone().requires_grad_()
    rest = [p for p in layer.parameters() if p is not layer.out.weight]

    def run(f, weight):
        with torch.set_grad_enabled(training):
            y = f()
            if training:
                torch.autograd.grad(y.sum(), [*rest, weight])
        return y.detach()

    cube = lambda: F.linear(layer.cube(x).flatten(2), w, layer.out.bias)
    return (lambda: run(lambda: layer(x), layer.out.weight)), (lambda: run(cube, w))


def latent(tokens, batch):
    """One new token of DeepSeek's proportions: 16 heads of 64, a latent of 256 and 32 for place."""
    layer = LatentAttention(1024, 16, 256, rotary=32)
    with torch.no_grad():
        _, cache = layer.step(torch.randn(batch, tokens, 1024))
    x = torch.randn(batch, 1, 1024)

    def run(absorb):
        layer.absorb = absorb
        with torch.no_grad():
            return layer.step(x, cache)[0]

    return (lambda: run(True)), (lambda: run(False))


def generation(length):
    model, start = GPT(60, width=128, context=length + 1), torch.zeros(1, 1, dtype=torch.int64)
    run = lambda cached: model.generate(
        start, length, cached=cached, generator=torch.Generator().manual_seed(0)
    )
    return (lambda: run(True)), (lambda: run(False))


CASES = [
    *(
        (
            f"multi-linear{'' if masked else ' unmasked'}, N = {n}, batch {b}, "
            f"{'training' if t else 'inference'}",
            "its cube",
            lambda n=n, b=b, t=t, masked=masked: multi_linear(n, b, t, masked),
        )
        for n, b, t, masked in [
            (32, 1, False, True),
            (32, 16, False, True),
            (32, 16, True, True),
            (80, 1, False, True),
            (80, 16, False, True),
            (80, 16, True, True),
            (32, 16, False, False),
            (80, 16, False, False),
        ]
    ),
    *(
        (f"absorbed decoding after {t} tokens, batch 4", "expanded", lambda t=t: latent(t, 4))
        for t in (128, 512, 2048)
    ),
    *(
        (f"generation of {n} characters with a cache", "full forward", lambda n=n: generation(n))
        for n in (32, 128)
    ),
]


def measure(what, rival, make, repeats):
    torch.manual_seed(0)
    spent, ways = ([], []), make()
    want = [f() for f in ways]  # warm-up
    equal = torch.allclose(*map(torch.Tensor.double, want), atol=1e-4 * float(want[1].abs().max()))
    for _ in range(repeats):
        for times, f in zip(spent, ways):
            start = time.process_time()
            f()
            times.append(time.process_time() - start)
    mib = [f"{peak_bytes(f) / MIB:.2f}" for f in ways]
    ours, theirs = map(min, spent)
    row = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()} {platform.system()}",
        "ours": what,
        "rival": rival,
        "equal": equal,
        "cpu seconds": f"{ours:.5f}",
        "rival seconds": f"{theirs:.5f}",
        "ratio": f"{theirs / ours:.2f}",
        "MiB": mib[0],
        "rival MiB": mib[1],
    }
    print(*row.values(), sep="  ", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(*case, options.repeats) for case in CASES]
    save_csv(rows, TABLE)


if __name__ == "__main__":
    main()
