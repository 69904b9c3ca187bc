"""A sweep on a cluster of Ray that it starts and stops itself: `make test-ray`."""

import os
import re
import secrets
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(
        not (find_spec("ray") and find_spec("hydra_plugins.hydra_ray_launcher")),
        reason="needs Ray: make test-ray",
    ),
]


def test_four_jobs_run_on_a_cluster_of_their_own(tmp_path: Path) -> None:
    # Ray listens on every interface: only who knows the token may ask it anything.
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text(secrets.token_hex(32))
    protected = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    command = [sys.executable, "-m", "bilevel_cli", "-m", "hydra/launcher=ray"]
    command += ["+hydra.launcher.ray.init.num_cpus=2"]
    command += ["+hydra.launcher.ray.init.include_dashboard=false"]
    command += ["task=quadratic", "device=cpu", "outer_steps=10", "method=cg,direct", "seed=0,1"]
    ended = subprocess.run(
        [*command, f"hydra.sweep.dir={tmp_path}/sweep"],
        env={**os.environ, **protected, "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert ended.returncode == 1, ended.stderr
    lines = re.findall(r"^method=(\w+) seed=\d +(\w+)", ended.stdout, re.MULTILINE)
    assert lines == [("cg", "completed")] * 2 + [("direct", "refused")] * 2
    assert "Traceback" not in ended.stderr
