"""Sphinx's settings; `make_site.py` gives the folders and the language, and writes the pages that are read here."""

from typing import Any

project = "etude"
author = "The etude authors"
copyright = "the etude authors, MIT licence"
extensions = ["myst_parser"]
exclude_patterns = ["_static", "_templates"]
templates_path = ["_templates"]
myst_heading_anchors = 4  # as GitHub names them, so that links with # work there and here
myst_url_schemes = {"http": None, "https": None, "mailto": None, "site": {"url": "{{path}}"}}
suppress_warnings = ["myst.header"]  # LOG.md and the READMEs may skip a level

html_theme = "furo"
html_title = "etude"
html_static_path = ["_static"]
html_css_files = ["charts.css", "site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
PARTS = ("brand", "language", "search", "scroll-start", "navigation", "scroll-end")
html_sidebars = {"**": [f"sidebar/{part}.html" for part in PARTS]}
html_theme_options: dict[str, Any] = {"top_of_page_buttons": [], "navigation_with_keys": False}
