"""Sentences with numbers in them, which a lesson cannot say unless they hold."""


def say(sentence: str, *holds) -> None:
    """Show a sentence of Markdown, and assert what it claims.

    sentence: with its numbers computed, an f-string. holds: the conditions behind its words, such
    as "less" or "a few hundred". Raises AssertionError, with the sentence, where one is not true.

    >>> stored, entries = 88, 840
    >>> say(f"The train stores {stored} numbers, a ninth of {entries}.", 9 * stored <= entries)
    The train stores 88 numbers, a ninth of 840.
    """
    for k, true in enumerate(holds, 1):
        if not true:
            raise AssertionError(f"this does not hold: {sentence} (claim {k} of {len(holds)})")
    try:
        from IPython import get_ipython
        from IPython.display import Markdown, display
    except ModuleNotFoundError:
        get_ipython = lambda: None
    display(Markdown(sentence)) if get_ipython() else print(sentence)
