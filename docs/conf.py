"""The documentation site: `make docs`. Nothing is fetched while it is built."""

from importlib.metadata import version as installed

project = "lengthwise"
author = "the authors of lengthwise"
project_copyright = "the authors of lengthwise"
version = release = installed("lengthwise")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
default_role = "literal"  # our docstrings write code in single backticks
source_suffix = {".md": "markdown"}
exclude_patterns = ["figures", "images", "*.py"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4

napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_custom_sections = [
    ("Source", "Source"),
    ("Differs from the source", "Differs from the source"),
    ("Reduces to", "Reduces to"),
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
# Shapes are strings of jaxtyping, which are no references.
nitpicky = False
suppress_warnings = ["ref.python"]  # two classes of one name, each found under its own module

html_theme = "furo"
html_title = f"lengthwise {release}"
html_static_path = []
