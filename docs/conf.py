"""Settings of the documentation."""

from importlib.metadata import version as version_of

project = "uwsgi-tasks"
author = "The uwsgi-tasks developers"
copyright = f"2026, {author}"
version = release = version_of("uwsgi-tasks")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {version}"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_use_ivar = True

# Types in signatures and under "Raises" are of the standard library, of which no inventory is
# fetched, or have a row in the table of errors. Links between pages are checked all the same.
nitpick_ignore_regex = [("py:(class|exc|obj)", ".*")]
