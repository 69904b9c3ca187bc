"""Links that Markdown as GitHub reads it cannot say: to files of the repository, and to options."""

from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.nodes import make_refnode

from bilevel_cli.config import options

ROOT = Path(__file__).parents[2]


def setup(app: Sphinx) -> None:
    app.add_config_value("repository", "", "env", [str])
    app.add_transform(FilesOfTheRepository)
    app.add_transform(Options)
    app.connect("missing-reference", _option)


def label(group: str, option: str) -> str:
    """The anchor of an option on its page."""
    return f"option-{group.replace('/', '-')}-{option}".replace("_", "-")


class FilesOfTheRepository(SphinxTransform):
    """A link to a file outside docs/ leads to the repository, not to a copy on the site."""

    default_priority = 5

    def apply(self, **kwargs: Any) -> None:
        here = Path(self.env.doc2path(self.env.docname)).parent
        for node in list(self.document.findall(addnodes.download_reference)):
            target = node["reftarget"]
            # From the top of docs/ where it begins with a slash, else from the page.
            file = (Path(self.env.srcdir) / target[1:]) if target[0] == "/" else here / target
            self._lead(node, file.resolve())
        for page in list(self.document.findall(addnodes.pending_xref)):
            if page.get("refdomain") == "doc":  # MyST leaves out the suffix
                self._lead(page, (Path(self.env.srcdir) / f"{page['reftarget']}.md").resolve())

    def _lead(self, node: nodes.Element, file: Path) -> None:
        if file.is_relative_to(ROOT) and not file.is_relative_to(self.env.srcdir):
            address = f"{self.config.repository}/blob/main/{file.relative_to(ROOT)}"
            node.replace_self(nodes.reference("", "", *node.children, refuri=address))


class Options(SphinxTransform):
    """`method=cg` in backticks leads to the page of the method, and so for every option."""

    default_priority = 6

    def apply(self, **kwargs: Any) -> None:
        for node in list(self.document.findall(nodes.literal)):
            group, _, option = node.astext().partition("=")
            if option not in _options(group) or isinstance(node.parent, nodes.reference):
                continue
            if isinstance(node.parent, nodes.title | addnodes.download_reference):
                continue
            reference = addnodes.pending_xref(
                "",
                refdomain="",
                reftype="option",
                reftarget=label(group, option),
                refwarn=True,
                refdoc=self.env.docname,
            )
            node.replace_self(reference)
            reference += node


def _option(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.reference | None:
    """The link to an option; unlike Sphinx's own links to anchors, it keeps the code that it is."""
    labels = env.domains.standard_domain.anonlabels
    if node["reftype"] != "option" or node["reftarget"] not in labels:
        return None
    page, anchor = labels[node["reftarget"]]
    return make_refnode(app.builder, node["refdoc"], page, anchor, content)


@cache
def _options(group: str) -> frozenset[str]:
    return frozenset(options.names(group)) if group in options.groups() else frozenset()
