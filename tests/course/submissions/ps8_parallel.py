"""Wrong submissions of problem set 8, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

ONE_AFTER_ANOTHER = """mine = [
    " ".join(
        f"{kind}{i}"
        for i in range(10)
        for kind, i in [("F", i), ("B", i - min(2, 3 - s)), ("W", i - min(2, 3 - s))]
        if 0 <= i < 8
    )
    for s in range(4)
]"""

WRONG = {
    "right shape, wrong matrix": Wrong(
        {"ring": ("torch.cat(row) for", "torch.cat(row[1:] + row[:1]) for")},
        {"ring-right": 8},
    ),
    "mutates its input": Wrong(
        {"when": ("[list(order) for order in orders]", "list(orders)")}, {"when-right": 9}
    ),
    "hard-coded answer to the visible test": Wrong(
        {
            "peak": "def peak(layers, n, stage):\n"
            "    return {0: 16 * sum(layers), 1: 176, 3: 196}[stage]"
        },
        {"peak-right": 8},
    ),
    "the delay within a rank": Wrong(
        {"when": ("delay * (op[2] != s)", "delay")}, {"when-right": 9}
    ),
    "gives what could be done": Wrong(
        {"when": ('raise ValueError("some operations wait for ever")', "break")},
        {"when-stuck": 4},
    ),
    "slack until the next operation": Wrong(
        {"slack": ("latest[op] - (end - start)", "start")}, {"slack-right": 9}
    ),
    "equal numbers of layers": Wrong(
        {
            "cut": "def cut(times, p):\n"
            "    return [len(times) // p + (k < len(times) % p) for k in range(p)]"
        },
        {"cut-right": 9, "cut-many": 4},
    ),
    "tries all cuts": Wrong(
        {
            "cut": "def cut(times, p):\n"
            "    if len(times) > 20:\n"
            "        raise TimeoutError\n"
            "    every = itertools.combinations(range(1, len(times)), p - 1)\n"
            "    ways = ([b - a for a, b in itertools.pairwise((0, *i, len(times)))]"
            " for i in every)\n"
            "    return min(ways, key=lambda parts: longest(times, parts))"
        },
        {"cut-many": 4},
    ),
    "memory of four": Wrong(
        {"mine": "mine = schedules.show(schedules.zb_h1(4, 8))"}, {"mine-right": 12}
    ),
    "one backward after two forwards": Wrong({"mine": ONE_AFTER_ANOTHER}, {"mine-right": 8}),
    "whole tensors around the ring": Wrong(
        {
            "ring": "def ring(parts, wire):\n"
            "    sums, here = list(parts), list(parts)\n"
            "    for _ in range(len(parts) - 1):\n"
            "        for s, part in enumerate(here):\n"
            "            wire.send(s, part)\n"
            "        here = [wire.receive(s) for s in range(len(parts))]\n"
            "        sums = [a + b for a, b in zip(sums, here)]\n"
            "    return sums"
        },
        {"ring-right": 8, "ring-bytes": 6},
    ),
    "without messages": Wrong(
        {"ring": "def ring(parts, wire):\n    return [sum(parts)] * len(parts)"}, {"ring-bytes": 6}
    ),
    "pieces without padding": Wrong(
        {"peak": ("math.ceil(count / n)", "count / n")}, {"peak-right": 8}
    ),
    "calls the functions of tl": Wrong(
        {
            "when": "when = check.given_when",
            "slack": "slack = check.given_slack",
            "cut": "def cut(*case):\n    return check.given_cut(*case)",
            "peak": "def peak(*case):\n    return check.given_peak(*case)",
        },
        {
            "when-right": 9,
            "when-stuck": 4,
            "slack-right": 9,
            "cut-right": 9,
            "cut-many": 4,
            "peak-right": 8,
        },
    ),
    "tampered tests": Wrong(
        {"cut": ("k - j]", "k - j + 1]"), "cut-right": "pass", "cut-many": "9"},
        {"cut-right": 9, "cut-many": 4},
    ),
    "deleted test cell": Wrong({"ring-bytes": None}, {"ring-bytes": 6}),
    "reads the network": Wrong(
        {
            "when": (
                "    spans, free,",
                "    import urllib.request\n    urllib.request.urlopen('http://127.0.0.1/').read()\n"
                "    spans, free,",
            )
        },
        {"when-right": 9, "when-stuck": 4},
    ),
}
EQUIVALENT = {}
