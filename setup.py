"""Puts the lessons, the assignments and the tables of numbers, which lie beside the package in a
clone, into the wheel. All else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SHIPPED = {  # place in the package: where it is in a clone
    "course/notebooks": "notebooks/*.ipynb",
    "course/notebooks/assignments": "notebooks/assignments/*.ipynb",
    "course/notebooks/thumbs": "notebooks/thumbs/*.png",
    "papers/data/papers": "data/papers/*.csv",
    "papers/data/measured": "data/measured/*.csv",
}


class WithLessons(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # they are read where they are
            return
        for place, pattern in SHIPPED.items():
            target = Path(self.build_lib, "tensorlab", place)
            shutil.rmtree(target, ignore_errors=True)  # what an earlier build has left
            target.mkdir(parents=True)
            for path in Path().glob(pattern):
                shutil.copy(path, target)


setup(cmdclass={"build_py": WithLessons})
