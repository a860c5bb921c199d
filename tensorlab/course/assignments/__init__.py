"""Self-checks of the assignments, one module for each, named as its notebook. They try one case
that no hidden test has, and say what is wrong with it."""
