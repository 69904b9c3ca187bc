"""What the site adds to Sphinx: generated reference pages, formulas as MathML, links to options.

Nothing here names a method, a task or any other option: all of it is read from `conf/`, docstrings,
claims, costs, `pyproject.toml` and `docs/measured/`.
"""

import logging
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from sitemaker import docstrings, links, mathml, reference


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    mathml.setup(app)
    links.setup(app)
    docstrings.setup(app)
    app.connect("builder-inited", _generate)
    app.connect("html-page-context", _without_source)
    logging.getLogger("sphinx.sphinx.directives.other").addFilter(_is_no_empty_list)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _without_source(
    app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Takes the links to the source from generated pages, of which the repository has none."""
    if name.startswith("reference/generated/"):
        context["page_source_suffix"] = ""


def _is_no_empty_list(record: logging.LogRecord) -> bool:
    """Lets `notebooks/*` stand in a list of pages before there is one; Sphinx names no category."""
    return getattr(record, "subtype", None) != "empty_glob"


def _generate(app: Sphinx) -> None:
    reference.write(Path(app.srcdir))
