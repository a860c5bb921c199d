"""Wrong submissions of problem set 3, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

WRONG = {
    "off by a transpose": Wrong(
        {"apply": ("torch.fft.fft(c))", "torch.fft.fft(c).conj())")}, {"apply-right": 9}
    ),
    "right shape, wrong matrix": Wrong({"multiply": ("rsmnqt", "rsmntq")}, {"multiply-right": 10}),
    "mutates its input": Wrong(
        {"nearest": ("i = torch", "w += 0.1 * (w - w.T)\n    i = torch")}, {"nearest-right": 9}
    ),
    "hard-coded answer to the visible test": Wrong(
        {
            "crossing": (
                "(_, m, n, _), *rest = shapes",
                "return 3 if len(shapes) == 2 and shapes[0][3] > 1 else None\n    (_, m, n, _), "
                "*rest = shapes",
            )
        },
        {"crossing-right": 9},
    ),
    "forms the matrix": Wrong(
        {"apply": ("return ", "torch.outer(c, c)\n    return ")}, {"apply-small": 5}
    ),
    "forms the product": Wrong(
        {"multiply": ("both = ", "dense(a)\n    both = ")}, {"multiply-small": 8}
    ),
    "walks from the left only": Wrong(
        {"count": ('side == "right"', "False")}, {"count-operations": 9, "count-bytes": 9}
    ),
    "counts what is written only": Wrong(
        {"count": ("(rows * inner + inner * columns + rows * columns)", "(rows * columns)")},
        {"count-bytes": 9},
    ),
    "averages over the batch": Wrong({"gradient": (".sum(", ".mean(")}, {"gradient-right": 6}),
    "calls the self-checks": Wrong(
        {
            "count": "def count(shapes, batch, side):\n"
            "    return check.given_count(shapes, batch, side)",
            "nearest": "nearest = check.nearest.right",
            "apply": "apply = check.apply.right",
        },
        {
            "count-operations": 9,
            "count-bytes": 9,
            "nearest-right": 9,
            "apply-right": 9,
            "apply-small": 5,
        },
    ),
    "calls the self-checks where no visible test looks": Wrong(
        {
            "count": (
                '    if side == "right"',
                "    if len(shapes) != 2 or batch != 7:\n"
                "        return check.given_count(shapes, batch, side)\n"
                '    if side == "right"',
            ),
            "nearest": (
                "    i = torch",
                "    if len(w) != 6:\n        return check.nearest.right(w)\n    i = torch",
            ),
            "apply": (
                "    return torch",
                "    if len(c) not in (6, 1000):\n        return check.apply.right(c, x)\n"
                "    return torch",
            ),
        },
        {
            "count-operations": 9,
            "count-bytes": 9,
            "nearest-right": 9,
            "apply-right": 9,
            "apply-small": 5,
        },
    ),
    "a gradient by autograd": Wrong(
        {
            "gradient": "def gradient(x, dy):\n"
            "    c = torch.zeros(x.shape[1], dtype=x.dtype, requires_grad=True)\n"
            "    return torch.autograd.grad(apply(c, x), c, dy)[0]"
        },
        {"gradient-right": 6},
    ),
    "tampered tests": Wrong(
        {"gradient": (".conj()", ""), "gradient-right": "pass"}, {"gradient-right": 6}
    ),
    "deleted test cell": Wrong({"count-bytes": None}, {"count-bytes": 9}),
    "reads the network": Wrong(
        {
            "nearest": (
                "i = torch",
                "import urllib.request\n    urllib.request.urlopen('http://127.0.0.1/').read()\n  "
                "  i = torch",
            )
        },
        {"nearest-right": 9},
    ),
}
EVEN = "all numbers of operations are even"
EQUIVALENT = {
    "crossing, line 2: 0 -> 1": EVEN,
    "crossing, line 7: 0 -> 1": EVEN,
}
