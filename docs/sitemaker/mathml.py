"""Formulas as MathML, made while the site is built: no script, and no font from elsewhere."""

import re
from html import escape
from xml.etree import ElementTree

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

XML = "http://www.w3.org/1998/Math/MathML"
# Commands that latex2mathml does not know, by those that it does.
SPELLED = {
    r"\\arg\s*\\(min|max)": r"\\arg\1",
    r"\\(begin|end)\{aligned\}": r"\\\1{align*}",
}
# In a formula of its own line, what they range over stands below them.
LARGE = {"min", "max", "arg\u2009min", "arg\u2009max", "sup", "inf", "lim"}

logger = logging.getLogger(__name__)


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))


def mathml(latex: str, display: bool) -> str:
    """The formula as MathML.

    Args:
        latex: Without dollar signs.
        display: Whether it stands in a line of its own.

    Raises:
        ValueError: It holds a command or a mark that is not understood.
    """
    for unknown, known in SPELLED.items():
        latex = re.sub(unknown, known, latex)
    found = convert(latex, display="block" if display else "inline")
    if left := re.search(r">\\(\w+)<|>(&)<", found):
        raise ValueError(f"latex2mathml does not know {left[0][1:-1]} in {latex}")
    ElementTree.register_namespace("", XML)
    tree = ElementTree.fromstring(found)
    if display:
        for node in tree.iter(f"{{{XML}}}msub"):
            if node[0].text in LARGE:
                node.tag = f"{{{XML}}}munder"
    return ElementTree.tostring(tree, encoding="unicode")


def _inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(_checked(node, display=False))
    raise nodes.SkipNode


def _display(writer: HTML5Translator, node: nodes.math_block) -> None:
    number = node.get("number")
    writer.body.append('<div class="math">' + _checked(node, display=True))
    if number:
        writer.body.append(f'<span class="eqno">({escape(str(number))})</span>')
    writer.body.append("</div>\n")
    raise nodes.SkipNode


def _checked(node: nodes.math | nodes.math_block, display: bool) -> str:
    try:
        return mathml(node.astext(), display)
    except Exception as error:  # latex2mathml has many, of no common class
        logger.warning("%s: %s", type(error).__name__, error, location=node)
        return escape(node.astext())
