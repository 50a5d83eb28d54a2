"""How Sphinx makes the site: `make docs`."""

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes are no warnings of ours
sys.path.insert(0, str(Path(__file__).parents[1]))

project = "keras-vit"
author = "The keras-vit authors"
copyright = author
release = version = installed_version("keras-vit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["conf.py"]
html_theme = "furo"
html_title = "keras-vit"
html_show_sphinx = False
templates_path: list[str] = []

# Links within a page and between pages are to headings, as on GitHub.
myst_heading_anchors = 3
myst_links_external_new_tab = True

# The docstrings: Google's sections, and `code` in single backticks as in Markdown.
default_role = "code"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Call arguments", "params_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88

# Types that other libraries document: their sites are not asked, the build needs no network.
nitpick_ignore_regex = [
    ("py:.*", r"(abc|collections|grpc|keras|np|numpy|pathlib|tensorflow|tf|typing)\..*"),
    ("py:class", r"Figure|Path"),  # matplotlib's and pathlib's, imported for annotations only
    ("py:class", r"dict\[str"),  # what napoleon makes of "dict[str, list[float]]"
    ("py:exc", r"\w+"),  # errors are named without their module
    # Parts of signatures that no caller has to know.
    ("py:class", r"keras_vit\.layers\.stems\.Stem"),
    ("py:class", r"training\.data\.(damage|pipeline)\..*"),
    ("py:class", r"serving\.page\..*"),
]

_SECTIONS = ("Args:", "Returns:", "Raises:", "Example:")


def setup(app: Sphinx) -> None:
    """Keep napoleon from reading "Side of the model's input: ..." as a type and its description.

    It does so for every attribute, property and returned value; those are sentences here.
    """
    before: dict[str, list[str]] = {}

    def keep(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
        if what in ("attribute", "property") and not set(_SECTIONS) & {x.strip() for x in lines}:
            before[name] = list(lines)

    def put_back(
        app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
    ) -> None:
        lines[:] = before.pop(name, lines)

    def untyped(
        app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
    ) -> None:
        if "Returns:" in lines[:-1]:
            place = lines.index("Returns:") + 1
            text = lines[place].lstrip()
            indent = lines[place].removesuffix(text)
            lines[place] = f"{indent}: {text}"  # nothing stands before the first colon: no type

    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", untyped, priority=400)
    app.connect("autodoc-process-docstring", put_back, priority=600)
