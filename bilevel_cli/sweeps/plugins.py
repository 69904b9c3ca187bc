"""Hydra's plugins for launching and sweeping: what to install where one is missing or broken."""

import re
import warnings
from collections.abc import Iterator
from types import TracebackType

PACKAGE = "hydra_plugins"


def ignore_broken() -> None:
    """Keeps Hydra from telling, at every command, of plugins that the command does not use."""
    warnings.filterwarnings("ignore", message=rf"\s*Error importing '{PACKAGE}\.")


def missing(group: str, option: str) -> str | None:
    """What to install for an option of hydra/launcher or hydra/sweeper; None for any other."""
    kind = group.removeprefix("hydra/")
    for plugin, extra in _extras().items():
        # hydra-submitit-launcher brings submitit_slurm and submitit_local
        if plugin == f"hydra-{option.partition('_')[0]}-{kind}":
            return f"{group}={option} needs {plugin}, which cannot be imported.{_way_out(extra)}"
    return None


def broken(error: BaseException) -> str | None:
    """What to install where a plugin could not import something; None for any other error."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        if isinstance(cause, ImportError):
            for name in _modules(cause.__traceback__):
                if name.startswith(f"{PACKAGE}."):
                    plugin = name.split(".")[1].replace("_", "-")
                    way_out = _way_out(_extras().get(plugin))
                    return f"The plugin {plugin} cannot be used: {cause.msg}.{way_out}"
        cause = cause.__cause__ or cause.__context__
    return None


def _modules(trace: TracebackType | None) -> Iterator[str]:
    while trace is not None:
        yield str(trace.tb_frame.f_globals.get("__name__"))
        trace = trace.tb_next


def _extras() -> dict[str, str]:
    """The plugins that this project knows of, and the extra that installs each."""
    from importlib.metadata import PackageNotFoundError, requires  # here: it takes 25 ms

    try:
        needed = requires("bilevel-cli") or []
    except PackageNotFoundError:  # a checkout that is not installed
        return {}
    found = (
        re.match(r"(hydra-\w+-(?:launcher|sweeper))\b.*extra == ['\"](\w+)", n) for n in needed
    )
    return {match[1]: match[2] for match in found if match}


def _way_out(extra: str | None) -> str:
    return f"\npip install 'bilevel-cli[{extra}]'" if extra else " Install it anew, or remove it."
