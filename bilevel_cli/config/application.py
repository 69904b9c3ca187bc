"""The program of Hydra's in which the package may be called."""

import contextlib
from collections.abc import Iterator

from hydra import version
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobRuntime


@contextlib.contextmanager
def hydra_apart() -> Iterator[None]:
    """Hides the Hydra application in which this may be called, until the context ends."""
    application, base = GlobalHydra.instance().hydra, version.VersionBase.instance().getbase()
    job = JobRuntime.instance().get("name")
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = application
        version.VersionBase.instance().version_base = base
        JobRuntime.instance().set("name", job)
