"""How the process of a command ends."""

import subprocess
import sys

import pytest

PROGRAM = """
import atexit, logging, logging.handlers, sys, threading, time
from bilevel_cli.commands import leaving

class Kept:
    def __del__(self):
        print("taken down")

def command():
    global kept, other
    kept = Kept()
    atexit.register(print, "told")
    other = threading.Thread(target=lambda: (time.sleep(0.1), print("waited for")))
    other.start()
    target = logging.StreamHandler(sys.stdout)
    late = logging.handlers.MemoryHandler(100, target=target)
    logging.getLogger("late").addHandler(late)
    logging.getLogger("late").warning("logged")
    {end}

leaving.at_once(command)()
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("return", 0), ("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit(130)", 130)],
)
def test_a_command_ends_with_its_code_once_all_is_done_that_others_asked_for(
    end: str, code: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True
    )
    assert ended.returncode == code, ended.stderr
    assert ended.stdout.splitlines() == ["waited for", "told", "logged"]
    assert ended.stderr == ""


@pytest.mark.parametrize(
    ("end", "said"), [("sys.exit('a reason')", "a reason"), ("1 / 0", "ZeroDivisionError")]
)
def test_python_itself_ends_a_command_that_has_no_code(end: str, said: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert said in ended.stderr
    assert ended.stdout.splitlines()[-1] == "taken down"
