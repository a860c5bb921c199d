"""Wrong submissions of problem set 5, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

WRONG = {
    "off by a transpose": Wrong(
        {"born": ("rnb,snb->rs", "rnb,rns->bs")},
        {"born-draws": 9, "born-scores": 5},
    ),
    "right shape, wrong matrix": Wrong(
        {"gram": ("inside[0] = inside[-1] = 0.5", "pass")}, {"gram-right": 5}
    ),
    "mutates its input": Wrong(
        {
            "chances": (
                "seen[k] = torch.zeros_like(cores[k])\n        seen[k][:, i] = cores[k][:, i]",
                "seen[k][:, [j for j in range(cores[k].shape[1]) if j != i]] = 0",
            )
        },
        {"chances-right": 9, "chances-long": 6},
    ),
    "hard-coded answer to the visible test": Wrong(
        {"exactly": ("eye = ", "k = min(k, 2)\n    eye = ")}, {"exactly-right": 9}
    ),
    "knows what is on the left only": Wrong(
        {"chances": ("for core in reversed(seen)", "for core in reversed(cores)")},
        {"chances-right": 9, "chances-long": 6},
    ),
    "overflows": Wrong({"chances": ("z / z.sum()", "z")}, {"chances-long": 6}),
    "absolute values in place of squares": Wrong(
        {"born": ("(rows @ z * rows).sum(dim=2)", "(rows @ z * rows).sum(dim=2).sqrt()")},
        {"born-draws": 9, "born-scores": 5},
    ),
    "forms the squares": Wrong(
        {
            "born": (
                "    row, log_p, index",
                "    torch.kron(cores[1][:, 0], cores[1][:, 0])\n    row, log_p, index",
            )
        },
        {"born-scores": 5},
    ),
    "each bit tells something": Wrong({"own": ("1e-3 * spins", "1.0 * spins")}, {"own-right": 5}),
    "a needle does not mislead": Wrong(
        {"own": ("torch.where(ones == 16, -1.0, ones)", "torch.where(ones == 16, -1.0, 0 * ones)")},
        {"own-right": 5},
    ),
    "does not integrate": Wrong(
        {"marginal": ("(check.given_gram(len(table)) * table).sum()", "table.sum()")},
        {"marginal-right": 9, "marginal-long": 5},
    ),
    "calls the trains of tl": Wrong(
        {
            "chances": "def chances(cores, known):\n"
            "    tt = tl.TT(tuple(cores))\n"
            "    return [tl.tt_marginal(tt, [k]) for k in range(len(cores))]",
            "born": "def born(cores, u):\n"
            "    tt = tl.TT(tuple(cores))\n"
            "    index = tl.tt_sample(tt, len(u), squared=True)\n"
            "    return index, tl.tt_log_prob(tt, index, squared=True)",
            "gram": "gram = check.given_gram",
            "marginal": "marginal = check.marginal.right",
        },
        {
            "chances-right": 9,
            "chances-long": 6,
            "born-draws": 9,
            "born-scores": 5,
            "gram-right": 5,
            "marginal-right": 9,
            "marginal-long": 5,
        },
    ),
    "tampered tests": Wrong(
        {"gram": ("6 * (m - 1)", "6 * m"), "gram-right": "pass"}, {"gram-right": 5}
    ),
    "deleted test cell": Wrong({"born-scores": None}, {"born-scores": 5}),
    "reads the network": Wrong(
        {
            "exactly": (
                "eye = ",
                "import urllib.request\n    urllib.request.urlopen('http://127.0.0.1/').read()\n"
                "    eye = ",
            )
        },
        {"exactly-right": 9},
    ),
}
SCALE = "a scale that is divided out"
SYMMETRIC = "the transpose of a symmetric matrix"
EQUIVALENT = {
    "born, line 1: 1 -> 2": SCALE,
    "born, line 4: 'rnb,snb->rs' -> 'rnb,snb->sr'": SYMMETRIC,
    "born, line 6: 1 -> 2": SCALE,
    "own, line 3: spins[:, 1:] * spins[:, :-1] -> spins[:, 1:] / spins[:, :-1]": "spins are 1 or "
    "-1",
    "own, line 4: 0.001 -> 0.0015": "another problem that is right: the answer is free",
    "own, line 9: 1.0 -> 1.5": "another problem that is right: the answer is free",
    "marginal, line 1: 1 -> 2": SCALE,
    "marginal, line 4: 'rs,rix,siy->xy' -> 'rs,rix,siy->yx'": SYMMETRIC,
    "marginal, line 8: 'rix,siy,xy->rs' -> 'rix,siy,xy->sr'": SYMMETRIC,
    "marginal, line 10: 'rix,rs,sjy,xy->ij' -> 'rix,rs,sjy,xy->ji'": SYMMETRIC,
}
