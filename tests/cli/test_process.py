"""The programs as processes: closed and full streams, signals, names that a terminal must not obey."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from mtslvr.cli.common import printable

FULL = "/dev/full"
pytestmark = pytest.mark.skipif(not os.path.exists(FULL), reason="Linux has a device that is always full")


def program(body):
    """A program that runs `body` as mtslvr runs its commands."""
    head = "import sys, time\nimport click\nfrom mtslvr.cli import common, process\ndef command():\n"
    return [sys.executable, "-c", f"{head}{textwrap.indent(body, '    ')}\nprocess.run(command)"]


def shell(command, redirection):
    """What `command`, under a shell's redirections, ends with and says."""
    line = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command]
    return subprocess.run(line, capture_output=True, text=True, timeout=60)


def test_a_run_needs_no_standard_streams(tmp_path):
    """What is opened first must not get the number of a closed stream, or what is printed goes into it."""
    out = tmp_path / "out"
    body = f"""file = open({str(out)!r}, "w")
common.echo("told", err=True)
click.echo("told")
print("told", file=sys.stderr, flush=True)
file.write(f"written {{sys.stderr.isatty()}} {{sys.stdin.read()}}")
file.close()"""
    for redirection in ("2>&- </dev/null", f"2>{FULL} </dev/null", "<&- >&- 2>&-"):
        done = shell(program(body), redirection)
        assert done.returncode == 0, done.stderr
        assert out.read_text() == "written False "
        out.unlink()


def test_a_result_that_has_nowhere_to_go_is_a_sentence():
    body = """@click.command(cls=common.Command)
def c():
    common.check_stdout()
    click.echo("result")
c.main([])"""
    for redirection, message in (
        (">&-", "standard output is closed, and the result goes there; redirect it to a file"),
        (f">{FULL}", "standard output cannot be written (No space left on device); write where there is space"),
    ):
        done = shell(program(body), redirection)
        assert (done.returncode, done.stderr) == (2, f"Error: {message}\n")


@pytest.fixture
def stopped(tmp_path):
    """What ends a program with and what it says that got signals once it had made the file `ready`."""

    def run(body, *signals, prefix=()):
        (ready := tmp_path / "ready").unlink(missing_ok=True)
        command = [*prefix, *program(f"def ready():\n    open({str(ready)!r}, 'w').close()\n{body}")]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            while not ready.exists():
                assert process.poll() is None, process.communicate()
                time.sleep(0.005)
            for number in signals:
                process.send_signal(number)
                time.sleep(0.1)
            said = process.communicate(timeout=60)[1]
        finally:
            process.kill()
        assert "Traceback" not in said, said
        return process.returncode, said

    return run


def test_the_first_signal_saves_and_the_second_ends(stopped):
    # In short sleeps: a signal that arrives just before a sleep is seen after it.
    body = """@click.command()
def c():
    try:
        ready()
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        for _ in range({}):
            time.sleep(0.01)
        raise common.Failure("interrupted, and saved", 130)
c.main([])"""
    for signals, code, told in (
        ([signal.SIGINT], 130, "interrupted, and saved"),
        ([signal.SIGTERM], 143, "interrupted, and saved"),
        ([signal.SIGTERM, signal.SIGINT], 130, "Error: interrupted"),
    ):
        found, said = stopped(body.format(0 if len(signals) == 1 else 3000), *signals)
        assert found == code and told in said


def test_a_signal_during_a_callback_or_an_import_ends_what_would_swallow_it(stopped, tmp_path):
    """Python drops exceptions of destructors, and compiled modules abort or go on where an import is interrupted."""
    body = """class Ended:
    def __del__(self):
        ready()
        for _ in range(100):
            time.sleep(0.01)
Ended()
for _ in range(1000):
    time.sleep(0.01)"""
    assert stopped(body, signal.SIGINT) == (130, "\nError: interrupted\n")
    path = f"sys.path.insert(0, {str(tmp_path)!r})"
    (tmp_path / "slow.py").write_text(
        "import time, builtins\ntry:\n    builtins.ready()\n"
        "    while True:\n        time.sleep(0.01)\nexcept BaseException:\n    time.sleep(90)\n"
    )
    assert stopped(f"{path}\nimport builtins\nbuiltins.ready = ready\nimport slow", signal.SIGINT)[0] == 130


def test_signals_after_the_work_or_that_the_parent_ignores_change_nothing(stopped, tmp_path):
    twice, after = [signal.SIGINT, signal.SIGINT], tmp_path / "after"
    last = f"lambda: (ready(), time.sleep(0.5), open({str(after)!r}, 'w').close())"
    assert stopped(f"import atexit\natexit.register({last})", *twice)[0] == 0 and after.exists()
    assert stopped("ready()\ntime.sleep(0.5)", *twice, prefix=["sh", "-c", 'trap "" INT; exec "$@"', "sh"])[0] == 0


def test_names_are_bytes_for_programs_and_cannot_command_a_terminal():
    assert printable("a\x1b[31m\n\r\x9b.wav ä 日本 \udc9b") == r"a\x1b[31m\n\r\x9b.wav ä 日本 \udc9b"
    command = program(r"common.echo('\x1b[31m\udcff.wav')")
    assert subprocess.run(command, capture_output=True, timeout=60).stdout == b"\x1b[31m\xff.wav\n"
    ours, theirs = os.openpty()
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=60)
    shown = os.read(ours, 10_000)
    os.close(ours), os.close(theirs)
    assert shown.rstrip() == rb"\x1b[31m\udcff.wav", done.stderr
