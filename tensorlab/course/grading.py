"""Staff's side of the assignments: what nbgrader is told, and the commands that call it.

Needs nbgrader: `pip install tensorlab[course]`.
"""

STUB = 'raise NotImplementedError("your turn: put your code in place of this line")'


def settings():
    """What nbgrader is told, wherever it runs.

    >>> settings().ClearSolutions.text_stub
    'YOUR ANSWER HERE'
    """
    from traitlets.config import Config

    config = Config()
    config.CourseDirectory.course_id = "tensorlab"
    config.ClearSolutions.code_stub = {"python": STUB}
    config.ClearSolutions.text_stub = "YOUR ANSWER HERE"
    return config
