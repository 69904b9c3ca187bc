"""What each command says of itself with --help."""

import os
import subprocess
import sys

from sitemaker.markdown import code, page, section
from sitemaker.source import ROOT, project

ASK = "import sys; from {module} import {function}; sys.argv = [{name!r}, '--help']; {function}()"


def text() -> str:
    """The contents of the page: a section for each command of pyproject.toml."""
    asked = {name: _ask(name, where) for name, where in project()["scripts"].items()}
    sections = []
    for name, process in asked.items():
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(f"{name} --help ended with {process.returncode}:\n{errors}")
        sections.append(section(name, code(output.strip(), "text")))
    return page(
        "Commands",
        "What each command answers to `--help`. All of them are installed with the package.",
        *sections,
    )


def _ask(name: str, where: str) -> "subprocess.Popen[str]":
    module, function = where.split(":")
    return subprocess.Popen(
        [sys.executable, "-c", ASK.format(module=module, function=function, name=name)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "90", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
