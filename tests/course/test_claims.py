"""A sentence is said where its claims hold, and stops the lesson where one does not."""

import pytest

from tensorlab.course.claims import say


def test_a_sentence_that_holds_is_said(capsys):
    say("Two is 2.", 2 == 2, 1 < 2)
    assert capsys.readouterr().out == "Two is 2.\n"


def test_a_sentence_that_does_not_hold_stops():
    with pytest.raises(AssertionError, match=r"Two is 3\. \(claim 2 of 2\)"):
        say("Two is 3.", True, 2 == 3)
