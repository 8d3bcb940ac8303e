"""The end of every script: what a user's mistake, an interruption and our own bug look like."""

import argparse
import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from modules.cli import configure_logging, make_parser, next_step, run
from modules.errors import DataError

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def run_python(code):
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=60)


def ending(capsys, main):
    with pytest.raises(SystemExit) as stopped:
        run(main)
    return stopped.value.code, capsys.readouterr().err


def raises(error):
    def main(_):
        raise error

    return main


def test_a_users_mistake_is_one_line_and_code_two(capsys):
    code, text = ending(capsys, raises(DataError("clip 1.wav: is empty.\nRecord it again.")))
    assert (code, text) == (2, "error: clip 1.wav: is empty. Record it again.\n")


def test_ctrl_c_is_one_line_and_code_130(capsys):
    assert ending(capsys, raises(KeyboardInterrupt())) == (130, "interrupted\n")


def test_success_and_failed_batches_give_their_codes(capsys):
    assert ending(capsys, lambda _: None)[0] == 0
    assert ending(capsys, lambda _: 1)[0] == 1


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda _: 1 / 0)


def test_help_names_every_default():
    parser = make_parser("x.py", "Does x.")
    assert isinstance(parser, argparse.ArgumentParser)
    parser.add_argument("--rate", type=int, default=44100, help="target rate in Hz")
    parser.add_argument("--names", nargs="+", default=["a b", "c"], help="names")
    parser.add_argument("--quiet", action="store_true", help="no bar")
    text = parser.format_help()
    assert "(default: 44100)" in text and "(default: a b c)" in text and text.count("default") == 2


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a.pth"), "error: a.pth: the disk is full\n"),
        (PermissionError(errno.EACCES, "Permission denied", "x/y.json"), "error: x/y.json: permission denied\n"),
        (MemoryError(), "error: not enough memory. Close other programs, or take smaller batches or shorter files\n"),
        (RecursionError("maximum recursion depth exceeded"), "error: is nested too deeply\n"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
            "error: not enough memory. Close other programs, or take smaller batches or shorter files\n",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line_and_code_two(capsys, error, text):
    assert ending(capsys, raises(error)) == (2, text)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_ends_a_script_as_ctrl_c_does_and_saves(name, tmp_path):
    number = getattr(signal, name)
    code = f"""
        import os, signal, time
        from pathlib import Path
        from modules.cli import run
        def main(_):
            try:
                os.kill(os.getpid(), {int(number)})
                time.sleep(10)
            finally:
                os.kill(os.getpid(), {int(number)})  # again, while it saves
                Path({str(tmp_path / "saved")!r}).write_text("yes")
        run(main)
    """
    done = run_python(code)
    assert (done.returncode, done.stderr) == (128 + number, f"stopped by {name}\n")
    assert (tmp_path / "saved").exists()


def test_a_signal_that_was_ignored_stays_ignored():
    code = """
        import os, signal
        from modules.cli import run
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as nohup does with SIGHUP
        run(lambda _: os.kill(os.getpid(), signal.SIGTERM))
    """
    assert run_python(code).returncode == 0


PRINTING = """
    import sys
    from pathlib import Path
    from modules.cli import run
    def main(_):
        for _ in range(5000):
            print("x" * 100)
            print("y" * 100, file=sys.stderr)
        Path(sys.argv[1]).write_text("done")
    run(main)
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "redirect", [">/dev/full", "2>/dev/full", ">&-", "2>&-", ">&- 2>&- <&-", "2>/dev/full | head -3"]
)
def test_failing_output_ends_no_work_and_is_no_success(redirect, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PRINTING))
    shell = f"set -o pipefail; {sys.executable} {script} {tmp_path / 'result'} {redirect}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=ENVIRONMENT)
    assert (tmp_path / "result").read_text() == "done"
    assert done.returncode == 1 and "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    if "2>" not in redirect:
        assert "what was printed is not whole" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a shell with head")
def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PRINTING))
    shell = f"set -o pipefail; {sys.executable} {script} {tmp_path / 'result'} 2>/dev/null | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=ENVIRONMENT)
    assert (done.returncode, done.stdout, (tmp_path / "result").read_text()) == (0, "x" * 100 + "\n", "done")


def test_no_name_reaches_the_terminal_as_a_command(capsys):
    def main(_):
        print("speaker \x1b]0;pwned\x07 \x9b31m")
        logging.getLogger("any").warning("clip \x1b[2J\r\u202eabc")

    configure_logging()
    with pytest.raises(SystemExit):
        run(main)
    printed = capsys.readouterr()
    assert printed.out == "speaker \\x1b]0;pwned\\x07 \\x9b31m\n"
    assert printed.err == "warning: clip \\x1b[2J\\r\\u202eabc\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, capsys):
    for log in (Path("/dev/full"), tmp_path):  # fails at each line; cannot be opened
        configure_logging(log)
        for _ in range(3):
            logging.getLogger("any").info("line")
        configure_logging()
        text = capsys.readouterr().err
        assert text.count("the log cannot be written") == 1 and text.count("line\n") == 3 and "Traceback" not in text


@pytest.mark.skipif(os.name == "nt", reason="the quotes of a POSIX shell")
def test_a_printed_command_runs_nothing_that_a_name_holds():
    line = next_step("python x.py", "-s", "$(touch PWNED)", "-n", "a b.wav", "-m", "logs/44k/G_1.pth")
    assert line == "Next: python x.py -s '$(touch PWNED)' -n 'a b.wav' -m logs/44k/G_1.pth"


def test_a_package_that_cannot_be_loaded_is_one_line_and_one_of_ours_a_traceback(capsys):
    code, text = ending(capsys, raises(ImportError("No module named 'torch'", name="torch")))
    assert code == 2
    assert "torch must be installed anew: pip install -r requirements.txt" in text
    mapped = ImportError("a.so: failed to map segment from shared object", name="torch")
    assert ending(capsys, raises(mapped)) == (
        2,
        "error: not enough memory. Close other programs, or take smaller batches or shorter files\n",
    )
    with pytest.raises(ImportError):
        run(raises(ImportError("cannot import name 'x' from 'modules.cli'", name="modules.cli")))
