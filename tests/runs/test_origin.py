"""What git tells of a checkout, without running what it or the environment names."""

import os
import subprocess
from pathlib import Path

import pytest

from bilevel_cli.runs.origin import described

pytestmark = pytest.mark.hostile


def test_git_runs_nothing_that_the_environment_or_a_checkout_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=x", "-c", "user.email=x@localhost")
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    (tmp_path / "file").write_text("a")
    (tmp_path / ".gitattributes").write_text("* filter=x\n")
    git("add", ".")
    git("commit", "--quiet", "--message", "x")
    commit = git("rev-parse", "HEAD").strip()
    ran = tmp_path.parent / f"{tmp_path.name}-ran"
    git("config", "core.fsmonitor", f"touch {ran}; false")
    git("config", "filter.x.clean", f"touch {ran}; cat")
    hook = tmp_path / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
    hook.chmod(0o755)
    later = (tmp_path / "file").stat().st_mtime + 5
    os.utime(tmp_path / "file", (later, later))  # git looks into a file with another time
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.fsmonitor")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"touch {ran}; false")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    assert described(tmp_path) == commit
    assert not ran.exists()
    (tmp_path / "file").write_text("b")
    assert described(tmp_path) == f"{commit}-dirty"
    assert not ran.exists()
    for name in ("GIT_DIR", "GIT_CONFIG_COUNT"):
        monkeypatch.delenv(name)
    git("status")  # and git as it comes would have run all that
    assert ran.exists()
