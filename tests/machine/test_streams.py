"""Standard streams as shells leave them: closed, full, without a reader or a terminal."""

import errno
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from bilevel_cli.machine.streams import Stream

PREPARED = """
import sys
from bilevel_cli.machine import streams
streams.prepare()
with open(sys.argv[1], "w") as own:
    print("said")
    print("warned", file=sys.stderr)
    print(own.fileno(), file=own)
"""


@pytest.mark.parametrize("closed", ["", "0", "1", "2", "01", "12", "02", "012"])
def test_no_file_gets_the_number_of_a_closed_stream(closed: str, tmp_path: Path) -> None:
    own = tmp_path / "own"
    redirections = " ".join(f"{number}>&-" for number in closed)
    shell = ["sh", "-c", f'exec "$@" {redirections}', "sh"]
    done = subprocess.run(
        [*shell, sys.executable, "-c", PREPARED, own], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert int(own.read_text()) > 2
    assert done.stdout == ("" if "1" in closed else "said\n")
    assert done.stderr == ("" if "2" in closed else "warned\n")


def test_a_pipe_whose_reader_left_takes_all_and_says_so() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = Stream(writer, "<stdout>")
    assert stream.write(b"some") == 4
    assert stream.left
    os.close(writer)


def test_a_terminal_that_was_closed_takes_all_and_says_so() -> None:
    master, slave = pty.openpty()
    stream = Stream(slave, "<stderr>")
    assert stream.write(b"seen\n") == 5
    assert not stream.left
    os.close(master)
    assert stream.write(b"unseen\n") == 7
    assert stream.refused is not None
    assert stream.refused.errno == errno.EIO
    assert stream.left
    os.close(slave)


def test_a_full_disk_takes_all_but_its_reader_did_not_leave() -> None:
    with open("/dev/full", "wb") as full:
        stream = Stream(full.fileno(), "<stdout>")
        assert stream.write(b"some") == 4
        assert stream.refused is not None
        assert stream.refused.errno == errno.ENOSPC
        assert not stream.left
