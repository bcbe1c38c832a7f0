"""The documentation as a site: .venv/bin/sphinx-build -W docs runs/site"""

import os
import re
import sys

sys.path.insert(0, os.path.abspath(".."))
import bsce_jax

project = "bsce_jax"
author = "the authors of bsce_jax"
version = release = bsce_jax.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
# docs/notebook.md is executed, in a folder of its own
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_output_stderr = "remove"
nb_merge_streams = True
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "bsce_jax"
autodoc_typehints = "none"  # the docstrings have shapes, which say more
html_copy_source = False
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": False}
suppress_warnings = ["myst.xref_missing"]


def _sources(app: object, name: str, source: list[str]) -> None:
    """Link to files of the checkout by name: they are not part of the site."""
    source[0] = re.sub(r"\[([^\]]+)\]\(\.\./[^)]*\)", r"`\1`", source[0])


def setup(app: object) -> None:
    app.connect("source-read", _sources)  # type: ignore[attr-defined]  # Sphinx's application
