"""The tests marked gpu run on every machine with a compiler, on a device that is simulated."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import simulated_library

UNAVAILABLE = 77  # as in simulated_plugin
TESTS = Path(__file__).parents[1]


def test_the_tests_marked_gpu_pass_on_the_simulated_device(tmp_path: Path) -> None:
    """In a process of their own, which has the device before it has torch."""
    try:
        simulated_library.library()
    except simulated_library.Unavailable as error:
        pytest.skip(str(error))
    marked = [path for path in sorted(TESTS.rglob("test_*.py")) if "mark.gpu" in path.read_text()]
    # One process, whatever the options of this one are: no workers, no coverage, no shared folder.
    plugins = ["simulated_plugin", "no:xdist", "no:cacheprovider", "no:cov"]
    command = [sys.executable, "-m", "pytest", *(word for p in plugins for word in ("-p", p))]
    command += [
        "-m",
        "gpu and not slow",
        "-q",
        "-rf",
        "--tb=short",
        f"--basetemp={tmp_path / 'base'}",
    ]
    apart = ("PYTEST", "COV_", "CUBLAS_")  # the last: the package sets it itself
    known = {n: v for n, v in os.environ.items() if not n.startswith(apart)}
    paths = [str(TESTS.parent), str(TESTS / "gpu"), *filter(None, [known.get("PYTHONPATH")])]
    ended = subprocess.run(
        [*command, *map(str, marked)],
        env=known | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        cwd=TESTS.parent,
        capture_output=True,
        text=True,
    )
    if ended.returncode == UNAVAILABLE and not _pinned():
        pytest.skip((ended.stdout + ended.stderr).strip()[-300:])
    failed = re.findall(r"^(?:FAILED|ERROR) .*", ended.stdout, re.MULTILINE)
    assert ended.returncode == 0, "\n".join([*failed, "", ended.stdout[-8000:], ended.stderr])
    assert re.search(r"^[1-9]\d+ passed", ended.stdout, re.MULTILINE), ended.stdout[-2000:]


def _pinned() -> bool:
    """Whether torch is the version that the project is developed with."""
    version = importlib.metadata.version("torch").split("+")[0]
    pins = (TESTS.parent / "constraints.txt").read_text()
    return re.search(rf"^torch=={re.escape(version)}\b", pins, re.MULTILINE) is not None


def test_a_machine_without_a_compiler_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (simulated_library.torch_folder() / "lib" / "libtorch_cuda.so").exists():
        pytest.skip("this torch has CUDA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(simulated_library.Unavailable, match=r"needs a C\+\+ compiler, got neither"):
        simulated_library.library()
    assert not list(tmp_path.iterdir())
