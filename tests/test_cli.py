"""The end of every script: what a user's mistake, an interruption and our own bug look like."""

import argparse

import pytest

from modules.cli import make_parser, run
from modules.errors import DataError


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
