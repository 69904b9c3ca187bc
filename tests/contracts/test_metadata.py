"""What a package index, a citation and a reader are told of the project is one story."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import bilevel_cli

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


def test_the_citation_is_of_this_version(citation: dict[str, Any]) -> None:
    assert citation["version"] == bilevel_cli.__version__


def test_the_changelog_opens_with_this_version_and_the_day_of_the_citation(
    citation: dict[str, Any],
) -> None:
    heading = next(
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")
    )
    assert heading == f"## {citation['version']} ({citation['date-released']})"


def test_the_citation_has_what_its_format_requires(citation: dict[str, Any]) -> None:
    assert citation["cff-version"] == "1.2.0"
    for entry in [citation, *citation["references"]]:
        assert entry["title"]
        assert entry["type"]
        assert entry["authors"]
    assert citation["message"]


def test_package_and_citation_agree(project: dict[str, Any], citation: dict[str, Any]) -> None:
    assert project["license"] == citation["license"]
    assert project["urls"]["Repository"] == citation["repository-code"]
    assert [author["name"] for author in project["authors"]] == ["The bilevel-cli authors"]


def test_links_to_the_repository_lead_to_files_that_exist(project: dict[str, Any]) -> None:
    repository = project["urls"]["Repository"]
    for link in project["urls"].values():
        _, found, path = link.partition(f"{repository}/blob/main/")
        assert not found or (ROOT / path).exists(), link
