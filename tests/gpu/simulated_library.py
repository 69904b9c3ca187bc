"""Makes the few lines of C++ behind the simulated device, and loads them before torch.

Torch asks once, when it is imported, whether there is CUDA. So this comes first, and nothing here
imports torch.
"""

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("cuda.cpp")
_loaded = False


class Unavailable(Exception):
    """This machine, or its torch, cannot have a simulated device. Says why."""


class HasCuda(Unavailable):
    """Torch has CUDA itself, and needs a real device."""


def torch_folder() -> Path:
    """Where torch is installed, found without importing it."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def library() -> Path:
    """The compiled library, made at the first call for a version of torch.

    It lies in the user's cache, under a name that says what it was made from. Compiling takes two
    seconds.

    Raises:
        Unavailable: There is no compiler, or this torch cannot be compiled against, or it has CUDA
            itself.
    """
    torch = torch_folder()
    if (torch / "lib" / "libtorch_cuda.so").exists():
        raise HasCuda("this torch has CUDA: the tests marked gpu need a real device")
    version = importlib.metadata.version("torch")
    key = hashlib.sha256(f"{torch} {version} {SOURCE.read_text()}".encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bilevel-cli"
    made = cache / f"simulated-cuda-{key}.so"
    if made.exists():
        return made
    compiler = next(filter(None, map(shutil.which, ("c++", "g++"))), None)
    if compiler is None:
        raise Unavailable("the simulated CUDA device needs a C++ compiler, got neither c++ nor g++")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        partial = Path(folder) / made.name
        options = ["-O0", "-shared", "-fPIC", "-std=c++20", f"-I{torch / 'include'}", str(SOURCE)]
        links = [f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu", "-o", str(partial)]
        ended = subprocess.run([compiler, *options, *links], capture_output=True, text=True)
        if ended.returncode:
            first = next((line for line in ended.stderr.splitlines() if "error" in line), "")
            raise Unavailable(f"torch {version} has no simulated CUDA device here: {first[:200]}")
        partial.replace(made)  # at once: another process may look for it
    return made


def load() -> None:
    """Loads the library into this process, once.

    Raises:
        Unavailable: As `library` does, or the library cannot be loaded.
    """
    global _loaded
    if _loaded:
        return
    assert "torch" not in sys.modules, "The simulated device comes before torch."
    torch = torch_folder() / "lib"
    try:
        for path in (torch / "libc10.so", torch / "libtorch_cpu.so", library()):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise Unavailable(f"the simulated CUDA device cannot be loaded: {error}") from error
    _loaded = True
