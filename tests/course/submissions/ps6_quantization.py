"""Wrong submissions of problem set 6, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

WRONG = {
    "off by a transpose": Wrong(
        {"frame": ("r - du - forward(dv)", "r - du - adjoint(dv)")},
        {"frame-right": 9, "frame-size": 6},
    ),
    "right shape, wrong matrix": Wrong(
        {"unpack": ("reshape(n, width)", "reshape(width, n).T")}, {"pack-right": 8}
    ),
    "mutates its input": Wrong(
        {"allocate": ("    bits, left =", "    errors *= 1 + 1e-15\n    bits, left =")},
        {"allocate-right": 11},
    ),
    "hard-coded answer to the visible test": Wrong(
        {"pack": ("bits = ", "width = min(width, 5) if len(codes) == 7 else 8\n    bits = ")},
        {"pack-right": 8, "pack-bytes": 5},
    ),
    "clips at a fixed height": Wrong(
        {"frame": ("float(c * r.norm()", "float(c * x.norm()")},
        {"frame-right": 9, "frame-size": 6},
    ),
    "the vector as a whole": Wrong(
        {"frame": ("    u, v, r, left", "    torch.outer(x, x)\n    u, v, r, left")},
        {"frame-size": 6},
    ),
    "distances to all levels": Wrong(
        {
            "lloyd": (
                "torch.searchsorted((levels[1:] + levels[:-1]) / 2, x)",
                "(x[:, None] > (levels[1:] + levels[:-1]) / 2).sum(1)",
            )
        },
        {"lloyd-right": 10},
    ),
    "levels without entries": Wrong(
        {"lloyd": ("torch.where(count > 0, sums / count, levels)", "sums / count")},
        {"lloyd-right": 10},
    ),
    "bit by bit where most is gained": Wrong(
        {
            "allocate": "def allocate(errors, sizes, budget):\n"
            "    bits = [0] * len(sizes)\n"
            "    while True:\n"
            "        gains = [\n"
            "            (float(errors[k, b] - errors[k, b + 1]) / sizes[k], k)\n"
            "            for k, b in enumerate(bits)\n"
            "            if b + 1 < errors.shape[1] and sizes[k] <= budget\n"
            "        ]\n"
            "        if not gains or max(gains)[0] <= 0:\n"
            "            return bits\n"
            "        k = max(gains)[1]\n"
            "        bits[k] += 1\n"
            "        budget -= sizes[k]"
        },
        {"allocate-right": 11, "allocate-many": 6},
    ),
    "one of two vectors": Wrong({"vectors": ("1.3 *", "0 *")}, {"vectors-right": 3.5}),
    "calls the functions of tl": Wrong(
        {
            "frame": "def frame(x, forward, adjoint, steps, c):\n"
            "    from tensorlab.methods.kashin import kashin\n"
            "    fit = kashin(x, 'dct', method='frame', max_iter=steps)\n"
            "    return fit.value.u, fit.value.v, list(fit.history)",
            "pack": "from tensorlab.methods.codes import pack",
            "lloyd": "lloyd = check.given_lloyd",
            "allocate": "def allocate(*case):\n    return check.given_allocate(*case)",
        },
        {
            "frame-right": 9,
            "frame-size": 6,
            "pack-right": 8,
            "pack-bytes": 5,
            "lloyd-right": 10,
            "lloyd-finds": 6,
            "allocate-right": 11,
            "allocate-many": 6,
        },
    ),
    "tampered tests": Wrong(
        {"unpack": ("[: n * width]", "[-n * width :]"), "pack-right": "pass"}, {"pack-right": 8}
    ),
    "deleted test cell": Wrong({"lloyd-finds": None}, {"lloyd-finds": 6}),
    "reads the network": Wrong(
        {
            "unpack": (
                "bits = packed",
                "import urllib.request\n    urllib.request.urlopen('http://127.0.0.1/').read()\n"
                "    bits = packed",
            )
        },
        {"pack-right": 8},
    ),
}
EQUIVALENT = {
    "pack, line 2: torch.zeros(math.ceil(bits.numel() / 8) * 8, dtype=torch.int64) -> "
    "torch.ones(math.ceil(bits.numel() / 8) * 8, dtype=torch.int64)": "bits that nobody reads",
    "allocate, line 1: torch.zeros(budget + 1, dtype=errors.dtype) -> "
    "torch.ones(budget + 1, dtype=errors.dtype)": "the same number added to all errors",
    "allocate, line 1: 1 -> 2": "one entry more, which is never read",
}
