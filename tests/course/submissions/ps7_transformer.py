"""Wrong submissions of problem set 7, each with the points that it must lose, and the mutants of
its solution that change nothing."""

from marking import Wrong

WRONG = {
    "off by a transpose": Wrong(
        {"weighted": ("torch.linalg.svd(w @ root.T,", "torch.linalg.svd(root @ w.T,")},
        {"weighted-right": 12, "weighted-thin": 6},
    ),
    "right shape, wrong matrix": Wrong(
        {"weighted": ("torch.linalg.svd(w @ root.T,", "torch.linalg.svd(w,")},
        {"weighted-right": 12, "weighted-thin": 6},
    ),
    "mutates its input": Wrong(
        {"buy": ("    ranks = [0]", "    errors[0][0] += 1\n    ranks = [0]")}, {"buy-right": 9}
    ),
    "hard-coded answer to the visible test": Wrong(
        {
            "buy": "def buy(errors, costs, budget):\n"
            "    return {4: [1, 1] if costs == [2, 2] else [2, 0], 100: [3, 2]}[budget]"
        },
        {"buy-right": 9},
    ),
    "all outputs at once": Wrong({"weighted": ("w @ root.T", "w @ x.T")}, {"weighted-thin": 6}),
    "the largest gain, whatever it costs": Wrong(
        {"buy": (" / cost\n", " / 1\n")}, {"buy-right": 9}
    ),
    "a case that buying solves": Wrong({"fooled": ("19.0", "21.0")}, {"fooled-right": 8}),
    "errors in place of their squares": Wrong(
        {"compress": ("s.square().flip(0)", "s.flip(0)")}, {"compress-right": 11}
    ),
    "without one half": Wrong({"effects": (".sum() / 2", ".sum()")}, {"effects-right": 14}),
    "all layers at once": Wrong(
        {"effects": ("weights | {name: w}", "weights | cuts | {name: w}")}, {"effects-right": 14}
    ),
    "plain SVD in the last question": Wrong(
        {
            "worst": (
                "check.given_weighted(weights[name], seen[name], 4)",
                "check.given_weighted(weights[name], torch.eye(seen[name].shape[1]).double(), 4)",
            )
        },
        {"worst-right": 6},
    ),
    "calls the functions of tl": Wrong(
        {
            "weighted": "def weighted(w, x, r):\n"
            "    from tensorlab.methods.weighted import weighted_svd\n"
            "    low = weighted_svd(w, r, right=torch.linalg.qr(x, mode='r').R.mT)\n"
            "    return low.u, low.v.mT",
            "buy": "buy = check.given_buy",
            "effects": "def effects(*case):\n    return check.given_effects(*case)",
        },
        {"weighted-right": 12, "weighted-thin": 6, "buy-right": 9, "effects-right": 14},
    ),
    "tampered tests": Wrong(
        {"buy": ("if gain > best:", "if gain >= best:"), "buy-right": "9"},
        {"buy-right": 9},
    ),
    "deleted test cell": Wrong({"effects-right": None}, {"effects-right": 14}),
    "reads the network": Wrong(
        {
            "effects": (
                "    found = {}",
                "    import urllib.request\n    urllib.request.urlopen('http://127.0.0.1/').read()\n"
                "    found = {}",
            )
        },
        {"effects-right": 14},
    ),
}
EQUIVALENT = {"buy, line 3: 1.0 -> 1.5": "errors do not grow with the rank: no gain is below 0"}
