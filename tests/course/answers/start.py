"""Answers to the exercises of lesson 00."""

RIGHT = {"rank_one_storage": [1800, 1800.0], "least_rank": [29, 29.0]}

WRONG = {
    "rank_one_storage": [
        (800_000, "every entry"),
        (1000, "the row is needed"),
        (800, "the column is needed"),
    ],
    "least_rank": [(28, "very near"), (30, "one rank less")],
}
