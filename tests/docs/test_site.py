"""The parts of which `make site` makes pages; that the pages hold together it says itself."""

import re
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
import yaml
from configs import composed
from docutils.core import publish_doctree
from omegaconf import OmegaConf
from sitemaker import docstrings, links, markdown, mathml, offline, probes, python, shelves, yamls

import bilevel_cli
from bilevel_cli.config import options
from bilevel_cli.core.method import Estimate

XML = "{http://www.w3.org/1998/Math/MathML}"
INNER_PARTS = [
    name
    for name in options.names("method")
    if any(place.startswith("method/") for place in yamls.brings("method", name))
]


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://cdn.example/mathjax.js"></script>',
        '<script src="//cdn.example/mathjax.js"></script>',
        '<link rel="stylesheet" href="https://fonts.example/css">',
        '<link href="http://fonts.example" rel="preconnect">',
        '<img alt="" src="HTTPS://images.example/a.png">',
        '<img srcset="a.png 1x, https://images.example/b.png 2x">',
        "<style>@import 'https://fonts.example/css';</style>",
        '<p style="background: url(https://images.example/a.png)">',
        '<svg><image xlink:href="https://images.example/a.png"/></svg>',
    ],
)
def test_what_a_browser_would_fetch_from_another_host_is_found(page: str) -> None:
    assert len(offline.fetched(f"<p>before</p>{page}<p>after</p>")) == 1


@pytest.mark.parametrize(
    "page",
    [
        '<a href="https://arxiv.org/abs/2110.00455">a link that a reader may follow</a>',
        '<link rel="canonical" href="https://example.org/">',
        '<script src="_static/furo.js"></script>',
        '<img src="data:image/png;base64,iVBORw0">',
        "<p>url(https://example.org) in a sentence</p>",
    ],
)
def test_links_of_readers_and_files_of_the_site_are_no_such_thing(page: str) -> None:
    assert offline.fetched(page) == []


def test_a_style_sheet_loads_by_url_and_by_import() -> None:
    sheet = "@import 'https://a.example/x.css'; @font-face { src: url( \"//b.example/f.woff2\") }"
    assert offline.loaded(sheet) == ["https://a.example/x.css", "//b.example/f.woff2"]
    assert offline.loaded("@font-face { src: url(f.woff2) } a { color: red }") == []


def test_what_a_minimum_ranges_over_stands_below_it_in_a_line_of_its_own() -> None:
    tree = ElementTree.fromstring(mathml.mathml(r"\arg\min_z f(z)", display=True))
    operator, below = tree.find(f".//{XML}munder") or pytest.fail("there is no munder")
    assert (operator.text, below.text) == ("arg\u2009min", "z")
    inline = ElementTree.fromstring(mathml.mathml(r"\arg\min_z f(z)", display=False))
    assert inline.find(f".//{XML}munder") is None


def test_a_fraction_a_sum_and_a_nabla_become_elements() -> None:
    found = mathml.mathml(r"\sum_{t=1}^K \frac{\partial F}{\partial z_t} + \nabla f", display=True)
    tree = ElementTree.fromstring(found)
    assert tree.find(f".//{XML}munderover") is not None
    assert tree.find(f".//{XML}mfrac") is not None
    assert "∇" in "".join(tree.itertext())


@pytest.mark.parametrize("latex", [r"\foo x", r"a & b"])
def test_a_formula_that_is_not_understood_is_refused(latex: str) -> None:
    with pytest.raises(ValueError, match="does not know"):
        mathml.mathml(latex, display=False)


@pytest.mark.parametrize("method", INNER_PARTS)
def test_the_settings_of_a_page_are_those_that_hydra_composes(method: str) -> None:
    node = OmegaConf.to_container(composed(f"method={method}").method, resolve=False)
    composed_here = dict(leaves(node, "method"))
    shown = [*yamls.settings("method", method), *yamls.within("method", method)]
    # As the command line reads them: 1.0e-6 and 1e-06 are one number.
    assert {row.name: yaml.safe_load(row.default) for row in shown} == composed_here
    assert all(row.meaning for row in shown)


def test_a_setting_of_one_of_several_metrics_bears_the_name_that_hydra_gives_it() -> None:
    chosen = options.names("metrics")
    node = composed(f"metrics=[{','.join(chosen)}]").metrics
    names = set(dict(leaves(OmegaConf.to_container(node, resolve=False), "metrics")))
    assert {row.name for name in chosen for row in yamls.settings("metrics", name)} <= names
    assert all(yamls.target("metrics", name) is not None for name in chosen)


def leaves(node: object, prefix: str) -> Iterator[tuple[str, object]]:
    """The dotted names of all settings below a node, with their values."""
    if not isinstance(node, dict):
        yield prefix, node
        return
    for key, value in node.items():
        if key != "_target_":
            yield from leaves(value, f"{prefix}.{key}")


def test_a_setting_comes_with_the_comment_behind_it_and_with_its_argument() -> None:
    rows = {row.name: row for row in yamls.settings("task", "reweight")}
    assert rows["task.folds"].comment.startswith("5: no clean examples are needed")
    assert rows["task.folds"].meaning.endswith(".")
    assert rows["suggest.inner_lr"].default == "${scaled:1.0}"
    above = {row.name: row.comment for row in yamls.top_level()}
    assert above["log_every"] == "outer steps between rows of train.csv"


def test_each_option_has_an_anchor_of_its_own() -> None:
    groups = [*shelves.PAGES_OF_THEIR_OWN, *shelves.groups()]
    assert set(groups) == set(options.groups())
    anchors = [links.label(group, name) for group in groups for name in options.names(group)]
    assert len(set(anchors)) == len(anchors)


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ([13, 13, 13, 13], "13"),
        ([11, 21, 51, 101], "K + 1"),
        ([18, 38, 98, 198], "2 K - 2"),
        ([10, 20, 50, 100], "K"),
        ([0, 0, 0, 0], "0"),
        ([5, 5, 5, 10], ""),
    ],
)
def test_a_cost_is_a_line_in_k_or_is_not_said_to_be_one(counts: list[float], line: str) -> None:
    assert probes.formula(counts) == line


def test_a_docstring_is_its_text_and_its_arguments() -> None:
    found = markdown.docstring(Estimate)
    assert found.body.startswith("The result of one outer step.")
    assert found.body.endswith("No tensor of it is attached to a graph.")
    assert found.args["loss"] == "The outer loss at the end of the inner loop. 0-dim."
    assert list(found.args) == list(Estimate._fields)


def test_formulas_of_a_docstring_become_blocks_and_signs_stay_signs() -> None:
    text = "Where z* is |z| < 1,\n\n    dF/dz = d_z f * 2\n\nby `z_K`, arXiv:2110.00455."
    assert markdown.prose(text) == (
        "Where z\\* is \\|z\\| \\< 1,\n\n```text\ndF/dz = d_z f * 2\n```\n\n"
        "by `z_K`, [arXiv:2110.00455](https://arxiv.org/abs/2110.00455)."
    )


def test_a_docstring_for_autodoc_says_the_same_in_restructured_text() -> None:
    lines = [
        "Where |z_| is `z*`,",
        "",
        "    f = |z|^2",
        "",
        "holds.",
        "",
        "Args:",
        "    z: As *z*.",
    ]
    tree = publish_doctree("\n".join(docstrings.restructured(lines)[:-2]))
    assert tree.astext().split("\n\n") == ["Where |z_| is z*,", "f = |z|^2", "holds."]
    assert docstrings.restructured(lines)[-2:] == ["Args:", "    z: As \\*z\\*."]


def test_every_public_name_is_on_one_page_of_the_reference() -> None:
    pages = dict(python.pages())
    homes = set(bilevel_cli.HOMES)
    titles = [name for text in pages.values() for name in re.findall(r"^(\w+)\n-+$", text, re.M)]
    assert sorted(titles) == sorted(homes)
    assert len(pages) > 2
