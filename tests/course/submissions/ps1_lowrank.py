"""Wrong submissions of problem set 1, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

WRONG = {
    "off by a transpose": Wrong(
        {"truncate": ("s[:r, None] * (vt[:r] @ qb.T)", "(s[:r, None] * (vt[:r] @ qb.T)).T")},
        {"truncate-error": 7, "truncate-smallest": 8},
    ),
    "right shape, wrong matrix": Wrong(
        {"update": ("gram = gram * (factor.T @ factor)", "gram = gram + (factor.T @ factor)")},
        {"update-best": 10, "als-history": 9, "als-finds": 7},
    ),
    "ignores rtol": Wrong(
        {"truncate": ("> rtol * s.norm()", "> 1e-12 * s.norm()")}, {"truncate-smallest": 8}
    ),
    "mutates its input": Wrong({"als": ("list(start), []", "start, []")}, {"als-history": 9}),
    "hard-coded answer to the visible test": Wrong(
        {
            "pair": (
                "near = ",
                "if n < 10: return [torch.zeros(len(a), 2, dtype=a.dtype)] * 3\n    near = ",
            )
        },
        {"pair-near": 7},
    ),
    "forms the matrix": Wrong(
        {"truncate": ("qa, ra = torch.linalg.qr(a)", "a @ b\n    qa, ra = torch.linalg.qr(a)")},
        {"truncate-size": 6},
    ),
    "forgets the small term": Wrong(
        {"distance": ("(3 / n**2 + 1 / n**4) ** 0.5", "3**0.5 / n")}, {"distance-exact": 6}
    ),
    "calls the formats of tl": Wrong(
        {
            "truncate": "def truncate(a, b, rtol):\n"
            "    w = tl.LowRank(a, b.T.contiguous()).round(rtol=rtol).orthogonal()\n"
            "    return w.u, w.s @ w.v.T",
            "als": "def als(x, start, sweeps):\n"
            "    cp = tl.CP(tuple(start))\n"
            "    fit = tl.cp_als(x, start[0].shape[1], init=cp, tol=0.0, max_iter=sweeps)\n"
            "    factors = list(fit.value.factors)\n"
            "    return [factors[0] * fit.value.weights, *factors[1:]], list(fit.history)",
        },
        {
            "truncate-error": 7,
            "truncate-smallest": 8,
            "truncate-size": 6,
            "als-history": 9,
            "als-finds": 7,
        },
    ),
    "takes off the watch": Wrong(
        {
            "update": "import contextlib\n\n"
            "watched = lambda *_, **__: contextlib.nullcontext()\n\n\n"
            "def update(x, factors, mode):\n    return check.given_update(x, factors, mode)"
        },
        {"update-best": 10},
    ),
    "tampered tests": Wrong(
        {
            "lost-row": ("0.01", "0.5"),
            "lost-row-found": "pass",
        },
        {"lost-row-found": 6},
    ),
    "deleted test cell": Wrong({"als-finds": None}, {"als-finds": 7}),
    "reads the network": Wrong(
        {
            "distance": (
                "return ",
                "import urllib.request\n    return "
                "float(urllib.request.urlopen('http://127.0.0.1/').read()) or ",
            )
        },
        {"distance-exact": 9},
    ),
}
COUNTED = "the tails are only counted, in whichever order"
EQUIVALENT = {
    "truncate, line 3: False -> True": "more singular vectors, of which the first r are taken",
    "truncate, line 4: s.square().flip(0).cumsum(0).flip(0) -> "
    "s.square().flip(0).cumsum(0)": COUNTED,
    "lost-row, line 2: 0.01 -> 0.015": "another right matrix",
    "update, line 1: 0 -> 1": "all factors have as many columns",
}
