"""Programs of papers at a small size."""

import pytest

from tensorlab import datasets
from tensorlab.models.gpt import Characters


@pytest.fixture
def small_program(tmp_path, monkeypatch):
    """(paper, size, characters) -> the table of a character program, run in an empty folder with
    this size as preset quick, on the beginning of the corpus."""

    def run(paper, size, characters):
        monkeypatch.chdir(tmp_path)
        text = Characters(datasets.corpus()[:characters])
        tokens = {part: text.encode(text.part(part)) for part in ("train", "valid", "test")}
        monkeypatch.setattr(paper, "corpus", lambda: (text, tokens))
        monkeypatch.setitem(paper.SIZES, "quick", size)
        return paper.PROGRAM.run("quick", progress=False)

    return run
