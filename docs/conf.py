"""The book: `make book` builds it, from the lessons, the docstrings and the tables of papers.

TENSORLAB_FAST=1 runs lessons in their short mode. TENSORLAB_LESSONS="01 04" runs these and shows
the others without outputs. Needs no network, neither to build it nor to read it.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import _book  # noqa: E402
import _docstrings  # noqa: E402

import tensorlab  # noqa: E402

os.environ |= {"TENSORLAB_STATIC": "1", "TENSORLAB_STRICT": "1"}  # the kernels inherit all this
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])
)

project = "tensorlab"
release = tensorlab.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "_mathml",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints", "lessons/thumbs"]

# Lessons: run once, and again when the lesson or the package has changed.
lessons = os.environ.get("TENSORLAB_LESSONS", "").split()
nb_execution_mode = "cache"
nb_execution_cache_path = str(_book.cache(HERE / "_build" / ".jupyter_cache"))
nb_execution_excludepatterns = _book.excluded(lessons)
nb_execution_in_temp = True
nb_execution_raise_on_error = False  # each that fails is a warning, which -W makes an error
nb_execution_show_tb = True
nb_execution_timeout = 600
nb_ipywidgets_js = {}  # explorers are plain HTML here; the default asks a CDN
nb_merge_streams = True
nb_number_source_lines = False
nb_mime_priority_overrides = [("html", "text/html", 0)]

myst_enable_extensions = ["dollarmath", "amsmath", "colon_fence", "html_image", "deflist"]
myst_heading_anchors = 3
myst_heading_slug_func = "_book.anchor"
suppress_warnings = ["myst.header"]  # lessons number their exercises with smaller headings
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures have the annotations already
add_module_names = False
python_maximum_signature_line_length = 88

html_theme = "pydata_sphinx_theme"
html_title = "tensorlab"
html_static_path = ["_static", "_fonts"]
html_css_files = ["book.css"]
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_show_sourcelink = False
html_scaled_image_link = False  # a link around a small picture would have no name
html_use_index = html_domain_indices = False  # tables without headers; the API pages list all names
html_copy_source = False
html_show_search_summary = False  # it reads pages, which a browser forbids on files from disk
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,  # arrow keys move explorers
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "header_links_before_dropdown": 6,
    "show_nav_level": 1,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app):
    _book.write(HERE)
    app.connect("source-read", _book.to_lessons)
    app.connect("autodoc-process-docstring", _docstrings.process)
    app.connect("autodoc-skip-member", _docstrings.skip)
