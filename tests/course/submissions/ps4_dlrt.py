"""Wrong submissions of problem set 4, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

WRONG = {
    "off by a transpose": Wrong(
        {"widen": ("@ s @", "@ s.T @"), "kls": ("widen(", "check.given_widen(")},
        {"widen-same": 8},
    ),
    "right shape, wrong matrix": Wrong(
        {"speed": ("torch.linalg.solve(s.T", "torch.linalg.solve(s")}, {"speed-right": 8}
    ),
    "the wrong singular vectors": Wrong(
        {"kls": ("v @ qt[:r].T", "v @ qt[:, :r]")}, {"kls-moves": 10}
    ),
    "ignores rtol": Wrong({"kls": ("theta * tails[0]", "1e-12 * tails[0]")}, {"kls-cuts": 8}),
    "mutates its input": Wrong(
        {"kls": ("u, s, v = widen", "s *= 1 - 1e-14\n    u, s, v = widen")}, {"kls-moves": 10}
    ),
    "hard-coded answer to the visible test": Wrong(
        {"trap": ("1e-6 * h", "0.01")}, {"trap-works": 8}
    ),
    "compares each value with the largest": Wrong(
        {"kls": ("(tails > theta * tails[0])", "(sigma > theta * sigma[0])")}, {"kls-cuts": 8}
    ),
    "forms the gradient": Wrong(
        {"kls": ("p, sigma", "right(torch.eye(len(v), dtype=v.dtype))\n    p, sigma")},
        {"kls-thin": 4},
    ),
    "a sum, not a mean": Wrong({"products": (" / len(y)", "")}, {"products-right": 9}),
    "cuts after the step": Wrong(
        {"train": ("ranks.append(len(s))", "ranks.append(min(5, len(s)))")},
        {"train-ranks": 6, "train-reads": 6},
    ),
    "calls the functions of tl": Wrong(
        {
            "widen": "widen = check.given_widen",
            "kls": "def kls(u, s, v, *rest):\n    return check.given_kls(u, s, v, *rest)",
            "speed": "def speed(*case):\n    return check.speed.right(*case)",
            "products": "def products(*case):\n    return check.given_products(*case)",
        },
        {
            "widen-same": 8,
            "kls-moves": 10,
            "kls-cuts": 8,
            "kls-thin": 4,
            "speed-right": 8,
            "products-right": 9,
        },
    ),
    "steps with an old gradient": Wrong(
        {
            "train": (
                "*check.given_products(u, s, v, x, y)",
                "*check.given_products(*first, x, y)",
            )
        },
        {"train-ranks": 6, "train-reads": 6},
    ),
    "tampered tests": Wrong(
        {"products": ("off.T @", "-off.T @"), "products-right": "pass"}, {"products-right": 9}
    ),
    "deleted test cell": Wrong({"trap-works": None}, {"trap-works": 8}),
    "reads the network": Wrong(
        {
            "speed": (
                "gv = right(v)",
                "import urllib.request\n    urllib.request.urlopen('http://127.0.0.1/').read()\n"
                "    gv = right(v)",
            )
        },
        {"speed-right": 8},
    ),
}
TRAP = "another trap that is as bad: the answer is free"
EQUIVALENT = {
    "trap, line 1: 4 -> 5": "a larger matrix with zeros around",
    "trap, line 3: -1 -> 1": "any of the singular values may be the small one",
    "trap, line 3: 1 -> 2": "any of the singular values may be the small one",
    "trap, line 3: 1e-06 -> 1.5e-06": TRAP,
    "trap, line 3: 1e-06 * h -> 1e-06": TRAP,
    "trap, line 3: 1e-06 * h -> 1e-06 / h": TRAP,
    "trap, line 4: eye[:, r:2 * r] @ eye[:r] + eye[:, :r] @ eye[r:2 * r] -> "
    "eye[:, r:2 * r] @ eye[:r] - eye[:, :r] @ eye[r:2 * r]": TRAP,
}
