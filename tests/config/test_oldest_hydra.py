"""What is left to Hydra it does from the oldest version on that is allowed: make test-oldest."""

import logging
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.utils import configure_log
from omegaconf import OmegaConf
from packaging.requirements import Requirement

pytestmark = pytest.mark.hostile
CHECKOUT = Path(__file__).parents[2]
PLAIN = {"version": 1, "root": {"level": "INFO", "handlers": []}}


@pytest.fixture
def touch(tmp_path: Path) -> str:
    return f"touch {tmp_path / 'evil'}"


@pytest.mark.parametrize("name", ["os.system", "bilevel_cli.commands.run.os.system"])
def test_a_callback_is_no_program(name: str, touch: str, tmp_path: Path) -> None:
    node = {"x": {"_target_": name, "command": touch}}
    with pytest.raises(Exception, match="blocklisted"):
        Callbacks(OmegaConf.create({"hydra": {"callbacks": node}}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["handlers", "formatters"])
def test_a_factory_of_logging_is_no_program(kind: str, touch: str, tmp_path: Path) -> None:
    made = {
        "handlers": {"class": "subprocess.Popen", "args": touch.split()},
        "formatters": {"()": "os.system", "command": touch},
    }
    before = logging.getLogger().handlers[:]
    with pytest.raises(ValueError, match="Unable to configure"):
        configure_log(OmegaConf.create(PLAIN | {kind: {"x": made[kind]}}))
    logging.getLogger().handlers[:] = before
    assert not list(tmp_path.iterdir())


def test_no_older_hydra_is_allowed_than_the_one_that_was_tried() -> None:
    """1.3.4 and 1.3.5 run all of the above; 1.3.8 has the list of refused targets as it is now."""
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    (hydra,) = (
        one for one in map(Requirement, project["dependencies"]) if one.name == "hydra-core"
    )
    assert version("hydra-core") in hydra.specifier
    assert not any(hydra.specifier.contains(f"1.3.{number}") for number in range(8))
