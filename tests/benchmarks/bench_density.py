"""Held-out log-density of TTDensity on a mixture with known truth, beside a Gaussian and a tuned
mixture of Gaussians, in one run.

    python tests/benchmarks/bench_density.py
        measures what density.csv lacks; --again measures all
    python tests/benchmarks/bench_density.py --choose
        the gap of each of CHOICES on rows of another seed; ours is the best of them

Five full Gaussians in six variables, 50 000 rows to learn from and 20 000 to be measured on: `gap`
is how far the mean log-density stays under that of the truth, in nats, of which 0.195 are asked
for; one sweep shows how soon that is reached. Our settings were chosen on other rows, both to learn
from and to be measured on. "published settings" are those of the code of [Novikov2021] at one
component (B-splines of degree 2, m = 48 on even knots, rank 16, batch 1024, Adam 1e-3, noise 0.01,
10 steps of EM), 400 steps, trained by us. Both in float32. Seconds are of the processor, for the
whole fit; those of the mixture of Gaussians are of the whole search. The table goes to density.csv
beside this file.
"""

import argparse
import csv
import datetime
import os
import platform
import time
from pathlib import Path

import torch

import tensorlab as tl
from tensorlab.parallel.sweeps import save_csv

TABLE = Path(__file__).with_name("density.csv")
ROWS, TESTS, D, PARTS = 50_000, 20_000, 6, 5
CHOICES = [
    dict(rank=rank, basis=basis, steps=4, batch=45_000, noise=noise, em_steps=10)
    for rank, basis, noise in ((22, 18, 0.07), (22, 18, 0.03), (22, 18, 0.1), (28, 16, 0.07))
]
OURS = CHOICES[3]
PUBLISHED = dict(
    rank=16,
    basis=48,
    knots="uniform",
    em_steps=10,
    method="adam",
    steps=400,
    batch=1024,
    lr=1e-3,
    noise=0.01,
)


def truth(seed: int = 0) -> torch.distributions.Distribution:
    """Equal shares; means 2 N(0, 1), covariances A Aᵀ / 6 + 0.1, A of standard normal numbers."""
    g = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(PARTS, D, generator=g, dtype=torch.float64)
    a = torch.randn(PARTS, D, D, generator=g, dtype=torch.float64)
    parts = torch.distributions.MultivariateNormal(
        means, a @ a.mT / D + 0.1 * torch.eye(D, dtype=torch.float64)
    )
    return torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(PARTS).double()), parts
    )


def data(seed: int = 3):
    """The truth, the rows to learn from, and those to be measured on: seed 2 to choose by, 3 for
    the table."""
    torch.manual_seed(seed)  # torch.distributions takes no generator
    p = truth()
    return p, p.sample((ROWS,)), p.sample((TESTS,))


def gaussian(x):
    """One full Gaussian."""
    return torch.distributions.MultivariateNormal(x.mean(0), torch.cov(x.T)).log_prob


def mixture(x, parts=(1, 3, 5, 8)):
    """Full Gaussians by EM, as many as are likeliest on a held-out tenth."""
    from sklearn.mixture import GaussianMixture

    cut = len(x) // 10
    fits = [GaussianMixture(k, random_state=0).fit(x[cut:].numpy()) for k in parts]
    best = max(fits, key=lambda m: m.score(x[:cut].numpy()))
    return lambda z: torch.as_tensor(best.score_samples(z.numpy())), best.n_components


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--choose", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.choose:
        p, x, z = data(2)
        for settings in CHOICES:
            log = tl.TTDensity(**settings, background=0).fit(x.float()).score_samples(z.float())
            print(
                f"{settings}: gap {float(p.log_prob(z).mean() - log[log.isfinite()].mean()):.4f}",
                flush=True,
            )
        return
    p, x, z = data()
    best, rows = float(p.log_prob(z).mean()), []
    if TABLE.exists() and not args.again:
        rows = list(csv.DictReader(TABLE.open(encoding="utf-8")))

    def there(name, about=None):
        return any(row["method"] == name and about in (None, row["about"]) for row in rows)

    def note(name, seconds, log, about=""):
        known = log[log.isfinite()]
        mean, outside = float(known.mean()), 1 - len(known) / len(log)
        rows.append(
            dict(
                date=datetime.date.today().isoformat(),
                machine=f"{platform.machine()}, {os.cpu_count()} cores",
                threads=torch.get_num_threads(),
                method=name,
                about=about,
                log_density=f"{mean:.4f}",
                gap=f"{best - mean:.4f}",
                outside=f"{outside:.2g}",
                seconds=f"{seconds:.3g}",
            )
        )
        print(*rows[-1].values(), sep="  ", flush=True)
        save_csv(rows, TABLE)

    if not there("truth"):
        note("truth", 0.0, p.log_prob(z))
    ours = (
        ("TTDensity", OURS),
        ("TTDensity, one sweep", OURS | {"steps": 1}),
        ("TTDensity, published settings", PUBLISHED),
    )
    for name, settings in ours:
        about = " ".join(f"{k} {v}" for k, v in settings.items())
        if there(name, about):
            continue
        start = time.process_time()
        model = tl.TTDensity(**settings, background=0).fit(x.float())
        note(name, time.process_time() - start, model.score_samples(z.float()), about)
    for name, fit in (
        ("one Gaussian", lambda: (gaussian(x), 1)),
        ("tuned mixture of Gaussians", lambda: mixture(x)),
    ):
        if there(name):
            continue
        start = time.process_time()
        score, parts = fit()
        note(name, time.process_time() - start, score(z), f"components {parts}")


if __name__ == "__main__":
    main()
