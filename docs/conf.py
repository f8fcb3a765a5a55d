"""Sphinx configuration: ``make docs``. Pages are Markdown (MyST); nothing is fetched while building."""

from __future__ import annotations

import sys
from pathlib import Path

from heedful import __version__

sys.path.insert(0, str(Path(__file__).parent))
import _generate

_generate.renew()

project = "Heedful"
author = "the Heedful contributors"
copyright = author
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
# Links from a page to a file of the repository that is no page (../CHANGELOG.md) are for readers of the repository.
suppress_warnings = ["myst.xref_missing"]

html_theme = "furo"
html_title = "Heedful"
html_static_path = ["_static"]
html_css_files = ["wide-tables.css"]
