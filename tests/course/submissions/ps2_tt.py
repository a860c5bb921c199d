"""Wrong submissions of problem set 2, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

WATCHED = {  # the points of the cells that forbid the trains of tl
    "train-error": 7,
    "train-orthonormal": 6,
    "train-ranks": 7,
    "add-right": 6,
    "shorten-error": 7,
    "shorten-ranks": 8,
    "shorten-size": 5,
}

WRONG = {
    "off by a transpose": Wrong(
        {
            "train": (
                "u[:, :r] * s[:r]",
                "vt[:r].T * s[:r] if u.shape[0] == len(vt.T) else u[:, :r] * s[:r]",
            )
        },
        {"train-error": 7},
    ),
    "right shape, wrong matrix": Wrong(
        {
            "shorten": (
                "torch.tensordot(rest, cores[k + 1], 1)",
                "cores[k + 1][: len(rest)].clone()",
            )
        },
        {"shorten-error": 7, "shorten-ranks": 8, "shorten-size": 5, "stored-right": 6},
    ),
    "ignores rtol": Wrong(
        {"train": ("delta = rtol * x.norm()", "delta = 1e-10 * x.norm()")}, {"train-ranks": 7}
    ),
    "mutates its input": Wrong({"shorten": ("cores = list(cores)", "pass")}, {"shorten-error": 7}),
    "hard-coded answer to the visible test": Wrong(
        {"inverse": ("step = 0.4", "step = 0.4 if n < 9 else 0.9")},
        {"inverse-entries": 9, "stored-right": 6},
    ),
    "shares the tolerance without the root": Wrong(
        {"train": ("(x.ndim - 1) ** 0.5", "(x.ndim - 1)")}, {"train-ranks": 7}
    ),
    "the sum of the bounds": Wrong(
        {"bounds": ("float(torch.stack(tails).norm())", "float(sum(tails))")}, {"bounds-right": 8}
    ),
    "forms the tensor": Wrong(
        {"shorten": ("    delta =", "    dense(cores[:4])\n    delta =")}, {"shorten-size": 5}
    ),
    "calls the trains of tl": Wrong(
        {
            "train": "def train(x, rtol):\n    return list(tl.tt_svd(x, rtol=rtol).cores)",
            "add": "def add(a, b):\n    return list((tl.TT(tuple(a)) + tl.TT(tuple(b))).cores)",
            "shorten": "def shorten(cores, rtol):\n    return check.given_shorten(cores, rtol)",
        },
        WATCHED,
    ),
    "calls the trains of tl where no visible test looks": Wrong(
        {
            "train": (
                "    delta = rtol * x.norm()",
                "    if x.shape not in ((3, 4, 5), (6, 6, 6, 6)):\n"
                "        tt = tl.tt_svd(x.permute(*range(x.ndim)[::-1]), rtol=rtol)\n"
                "        return [core.permute(2, 1, 0) for core in reversed(tt.cores)]\n"
                "    delta = rtol * x.norm()",
            ),
            "add": (
                "    cores = [torch.cat",
                "    if a[0].shape != (1, 3, 2) or len(a) > 3:\n"
                "        return list((tl.TT(tuple(a)) + tl.TT(tuple(b))).cores)\n"
                "    cores = [torch.cat",
            ),
            "shorten": (
                "    cores = list(cores)",
                "    if cores[0].shape not in ((1, 3, 4), (1, 10, 6)):\n"
                "        return check.given_shorten(cores, rtol)\n"
                "    cores = list(cores)",
            ),
        },
        WATCHED,
    ),
    "takes off the watch": Wrong(
        {
            "train": "def alone(function, *case, most=None):\n    return function(*case)\n\n\n"
            "def train(x, rtol):\n"
            "    tt = tl.tt_svd(x.permute(*range(x.ndim)[::-1]), rtol=rtol)\n"
            "    return [core.permute(2, 1, 0) for core in reversed(tt.cores)]",
        },
        {"train-error": 7, "train-orthonormal": 6, "train-ranks": 7},
    ),
    "tampered tests": Wrong(
        {"loose": ("= 2, 1", "= 2, 0"), "loose-right": "pass"}, {"loose-right": 6}
    ),
    "deleted test cell": Wrong({"add-right": None}, {"add-right": 6}),
    "reads the network": Wrong(
        {
            "stored": (
                "stored = ",
                "import urllib.request\nstored = "
                "int(urllib.request.urlopen('http://127.0.0.1/').read()) or ",
            )
        },
        {"stored-right": 6},
    ),
}
EQUIVALENT = {
    "train, line 4: False -> True": "more singular vectors, of which the first r are taken",
    "inverse, line 2: 10 -> 11": "one more node",
    "inverse, line 2: 66 -> 67": "one more node",
    "inverse, line 4: torch.diag_embed(decay).movedim(0, 1) -> torch.diag_embed(decay).movedim(1, "
    "0)": "the same exchange of two modes",
}
