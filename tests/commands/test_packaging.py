"""The wheel: built, installed apart from the checkout, and run from anywhere."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
QUICK = ["task=quadratic", "outer_steps=10"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bilevel-run of a new environment, in a path with spaces, that holds the wheel alone."""
    folder = tmp_path_factory.mktemp("a path with spaces")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(CHECKOUT)], check=True, capture_output=True)
    environment = folder / "env"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    # What the wheel depends on is installed already, where these tests run: torch alone is large.
    here = next(path for path in sys.path if path.endswith("site-packages"))
    there = next((environment / "lib").glob("python*/site-packages"))
    (there / "dependencies.pth").write_text(here + "\n")
    wheel = next(folder.glob("*.whl"))
    install = [str(python), "-m", "pip", "install", "--no-deps", "--ignore-installed", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return environment / "bin" / "bilevel-run"


def run(command: Path, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(command), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_wheel_brings_its_own_conf(installed: Path, tmp_path: Path) -> None:
    code = "from bilevel_cli.config.options import CONF; print(CONF)"
    found = run(installed.parent / "python", "-c", code, cwd=tmp_path)
    assert Path(found.stdout.strip()).parts[-3:] == ("site-packages", "bilevel_cli", "conf")
    assert str(CHECKOUT) not in found.stdout


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["root", "read-only", "spaces"])
def test_the_wheel_runs_from_anywhere(installed: Path, kind: str, tmp_path: Path) -> None:
    folder = {"root": Path("/")}.get(kind, tmp_path / kind.replace("spaces", "with some spaces"))
    folder.mkdir(exist_ok=True)
    if kind == "read-only":
        folder.chmod(0o555)
    output = tmp_path / "out put"
    done = run(installed, *QUICK, f"hydra.run.dir={output}", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (output / "eval.csv").exists()
    again = run(installed, *QUICK, f"hydra.run.dir={output}", cwd=folder)
    assert again.returncode == 0, again.stderr
    if kind == "read-only":
        assert not list(folder.iterdir())


@pytest.mark.slow
def test_the_wheel_sweeps_and_lists_its_options(installed: Path, tmp_path: Path) -> None:
    assert "reweight" in run(installed, "task=?", cwd=tmp_path).stdout
    assert "method: amigo," in run(installed, "--help", cwd=tmp_path).stdout
    done = run(installed, "-m", *QUICK, "seed=0,1", "hydra.sweep.dir=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").glob("*/eval.csv"))) == 2


@pytest.mark.slow
def test_the_wheel_checks_methods(installed: Path, tmp_path: Path) -> None:
    found = run(installed.with_name("bilevel-check"), "method=reverse,cg", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count(" ok") == 2
    assert not list(tmp_path.iterdir())
