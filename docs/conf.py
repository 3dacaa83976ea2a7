"""Settings of the documentation."""

from importlib.metadata import version as version_of

project = "uwsgi-tasks"
author = "The uwsgi-tasks developers"
copyright = f"2026, {author}"
version = release = version_of("uwsgi-tasks")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings = ["toc.empty_glob"]  # a section may wait for its first page
html_theme = "furo"
html_title = f"{project} {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
