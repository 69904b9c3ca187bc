"""How a command ends when it cannot do what was asked."""

import difflib
import errno
import re
from collections.abc import Container, Iterable, Iterator

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNWRITABLE = (*NO_SPACE, errno.EIO, errno.EROFS)

# How libraries say, in a RuntimeError of torch's, that there was not enough memory.
_NO_MEMORY = re.compile(
    r"out of memory(?! bound)"  # torch for CUDA, ROCm, XPU and MPS; the CUDA driver; NCCL
    r"|ALLOC(ATION)?_FAILED|StatusAllocFailed"  # cuBLAS, cuSOLVER, cuDNN; MIOpen
    r"|can't allocate memory|not enough memory"  # torch's allocator on a CPU
    r"|Cannot allocate memory"  # the system, through torch or a compiler
    r"|std::bad_alloc"  # C++
    # Of a size in bytes that is larger than any memory.
    r"|(calculation|storage size) overflowed|multiplication overflow"
)


class UsageError(Exception):
    """A setting is wrong: one message for the user."""

    code = 2


class Failed(Exception):
    """A run broke: one message for the user; the traceback is in a file of its folder.

    Args:
        message: For the user.
        status: How the run ended, as its manifest says: failed, diverged or oom. Of several runs
            that ended differently, the status that `runs.entry.run` chooses.
    """

    code = 1

    def __init__(self, message: str, status: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> "tuple[type[Failed], tuple[str, str]]":
        return type(self), (str(self), self.status)  # for launchers, which pickle what a job raises


class Unwritten(Failed):
    """A run could not write its files: it continues once it can."""

    code = 3


class Removed(Unwritten):
    """What a run had written went away while it ran. It writes nothing more.

    Args:
        path: The folder of the run, or a file in it.
        status: As of `Failed`.
    """

    def __init__(self, path: str, status: str) -> None:
        super().__init__(
            f"A run needs {path}, which was removed or renamed while the run went on. Put it back, "
            "or begin anew with the same command.",
            status,
        )
        self.path = path

    def __reduce__(self) -> "tuple[type[Failed], tuple[str, str]]":
        return type(self), (self.path, self.status)


def refusal(error: BaseException, numbers: Container[int] | None = None) -> OSError | None:
    """The refusal of the operating system behind an error, with one of some numbers if given."""
    refusals = (e for e in _chain(error) if isinstance(e, OSError))
    return next((e for e in refusals if numbers is None or e.errno in numbers), None)


def out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of a device or of the machine.

    Some libraries have no word for it of their own, and say that they found no algorithm or could
    not begin. Such an error counts as any other.
    """
    if isinstance(error, RuntimeError):
        return _NO_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()  # an error that is raised again may be its own cause
    while error is not None and id(error) not in seen:
        yield error  # torch, for one, has its own words for what the system refused
        seen.add(id(error))
        error = error.__cause__ or error.__context__


def hint(name: str, candidates: Iterable[str]) -> str:
    """'. Did you mean ...?' with the nearest candidate, or a full stop."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f". Did you mean {near[0]!r}?" if near else "."
