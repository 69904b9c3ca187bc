"""How Sphinx builds the site: `make site`."""

import sys
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]

import bilevel_cli  # noqa: E402 - from this checkout

PYPROJECT = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = "bilevel-cli"
author = PYPROJECT["authors"][0]["name"]
release = version = bilevel_cli.__version__
repository = PYPROJECT["urls"]["Repository"]

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sitemaker"]
exclude_patterns = ["README.md", "sitemaker", "measured", "**.ipynb_checkpoints"]

nitpicky = True
# Other libraries' documentation is not at hand without the network; of ours, public names count.
public = "|".join(bilevel_cli.HOMES)
nitpick_ignore_regex = [(r"py:.*", rf"(?!bilevel_cli\.({public})$).*")]

myst_enable_extensions = ["alert", "deflist", "dollarmath", "smartquotes"]
myst_heading_anchors = 4
myst_links_external_new_tab = False

nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 120  # seconds for a cell
nb_ipywidgets_js = {}  # come from another host
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"bilevel-cli {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_copyright = False
html_show_sourcelink = False
html_theme_options = {
    "source_repository": repository,
    "source_branch": "main",
    "source_directory": "docs/",
}
