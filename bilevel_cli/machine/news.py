"""What processes of one run can tell each other while no exchange works any more.

An exchange waits for all. A process whose GPU has failed can take part in none, and one that was
killed says nothing. So each leaves word in the store by which they met, which is a TCP server of
its own, and each can look there while it waits.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType

import torch
from torch.distributed.distributed_c10d import Store

LOOK = 1.0  # seconds between two looks at the store
FIRST_SPEAKS = timedelta(seconds=5)  # in which the first process notices what another one notices
SOON = timedelta(minutes=1)  # in which processes that compute the same come to the same point


class News:
    """What the processes of a run know of those that have ended.

    Args:
        store: Where they leave word.
        rank: Of this process.
        count: How many there are.
    """

    def __init__(self, store: Store, rank: int, count: int) -> None:
        self._store, self._rank = store, rank
        self._others = [other for other in range(count) if other != rank]
        self._processes: dict[int, str] = {}  # of the others, known from the first look on
        self._meetings = 0
        self._leave(f"process/{rank}", f"{_namespace()} {os.getpid()}")

    def tell(self, text: str) -> None:
        """Leaves word of why this process ends, for those that wait for it.

        Args:
            text: Its traceback.
        """
        self._leave(f"failed/{self._rank}", text)

    def told(self) -> dict[int, str]:
        """The tracebacks of the other processes that failed and could say so, by rank."""
        found = {rank: self._read(f"failed/{rank}") for rank in self._others}
        return {rank: text for rank, text in found.items() if text is not None}

    def speak(self) -> None:
        """Leaves word, in the first process, that it ends and tells the user why."""
        self._leave("speaks", "")

    def first_speaks(self) -> bool:
        """Whether the first process tells the user why the run ends. Waits for its word a while."""
        with contextlib.suppress(RuntimeError):  # the store ended with the first process
            self._store.wait(["speaks"], FIRST_SPEAKS)
            return True
        return False

    def lost(self) -> bool:
        """Whether another process has ended, by its own word or without one.

        Without one it is noticed where it was a process of this machine.
        """
        return bool(self.told()) or self._read("speaks") is not None or self._dead()

    def meet(self) -> bool:
        """Whether the others come here too. Waits for them, for `SOON` or until one has ended.

        An exchange would do where all are sure to come. One that is elsewhere, in an exchange of
        its own, would take this one for the other.
        """
        self._meetings += 1
        self._leave(f"met/{self._meetings}/{self._rank}", "")
        keys = [f"met/{self._meetings}/{other}" for other in self._others]
        end = time.monotonic() + SOON.total_seconds()
        while any(self._read(key) is None for key in keys):
            if self.lost() or time.monotonic() > end:
                return False
            time.sleep(LOOK / 10)
        return True

    def _dead(self) -> bool:
        for rank in self._others:
            if rank not in self._processes and (known := self._read(f"process/{rank}")):
                self._processes[rank] = known
        for known in self._processes.values():
            namespace, _, number = known.partition(" ")
            if namespace == _namespace():
                try:
                    os.kill(int(number), 0)  # which asks, and sends no signal
                except ProcessLookupError:
                    return True
                except PermissionError:
                    pass
        return False

    def _leave(self, key: str, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the store may have ended
            self._store.set(key, text)

    def _read(self, key: str) -> str | None:
        with contextlib.suppress(RuntimeError):
            if self._store.check([key]):
                return self._store.get(key).decode(errors="replace")
        return None


class Watch:
    """A thread that frees this process from an exchange that nobody will complete.

    An exchange between GPUs (NCCL) waits on the GPU, and the host waits behind it where Python
    hears nothing. The thread looks at the news meanwhile. Where another process is lost, or an
    exchange takes longer than `patience`, it aborts the exchange: what then arrives is not to be
    used, and `lost` says so.

    Args:
        lost: Whether another process has ended.
        abort: Ends all exchanges of this process.
        patience: How long an exchange may take.

    Attributes:
        lost: Whether exchanges were aborted.
    """

    def __init__(
        self, lost: Callable[[], bool], abort: Callable[[], None], patience: timedelta
    ) -> None:
        self.lost = False
        self._ask, self._abort, self._patience = lost, abort, patience.total_seconds()
        self._begun: float | None = None
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join(FIRST_SPEAKS.total_seconds())  # it may be aborting

    def begin(self) -> None:
        """Notes that an exchange between GPUs has begun."""
        self._begun = time.monotonic()

    def rest(self) -> None:
        """Notes that the host waits for none: what it does now may take as long as it likes."""
        self._begun = None

    def _look(self) -> None:
        while not self._end.wait(LOOK):
            begun = self._begun
            hangs = begun is not None and time.monotonic() - begun > self._patience
            if hangs or self._ask():
                self.lost = True
                with contextlib.suppress(RuntimeError):
                    self._abort()
                return


def within(seconds: float, fn: Callable[[], None]) -> None:
    """Calls `fn`, and waits for its end for so many seconds at most; what it raises is dropped."""

    def quietly() -> None:
        with contextlib.suppress(RuntimeError):
            fn()

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    thread.join(seconds)


def finish(device: torch.device) -> None:
    """Waits until a GPU has computed all that it was given, so that its errors surface here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _namespace() -> str:
    """Names the machine, and the part of it in which numbers of processes mean the same."""
    with contextlib.suppress(OSError):
        return f"{os.uname().nodename}:{os.readlink('/proc/self/ns/pid')}"
    return os.uname().nodename
