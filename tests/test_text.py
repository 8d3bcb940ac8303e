"""Foreign text is shown, never obeyed: by a terminal, or by the shell that a printed command is pasted into."""

import os
import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modules import text
from modules.text import counted, listing, printable, quote


def test_controls_and_text_directions_are_shown_and_letters_stay():
    assert printable("a\x1b[31m\n\u202eb\x00\x9b") == "a\\x1b[31m\\n\\u202eb\\x00\\x9b"
    assert printable("песня 歌 \U0001f469\u200d\U0001f3a4 é") == "песня 歌 \U0001f469\u200d\U0001f3a4 é"
    assert printable("\udcff") == "\\udcff", "a file name that is no Unicode"


def test_long_text_is_cut():
    assert printable("x" * 10**6) == "x" * 197 + "..."
    assert printable("x" * 1000, None) == "x" * 1000


@given(st.text())
def test_what_is_printable_never_holds_a_control(value):
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in printable(value))


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
@given(st.text(alphabet=st.characters(blacklist_categories=("Cc", "Cf", "Cs", "Zl", "Zp")), max_size=40))
def test_a_quoted_word_is_one_word_again(value):
    assert shlex.split(f"x {quote(value)}") == ["x", value]


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_pasting_a_quoted_word_runs_nothing(tmp_path):
    words = ["$(touch PWNED)", "`touch PWNED`", "'; touch PWNED; '", "a\ntouch PWNED\n"]
    subprocess.run(["sh", "-c", f"echo {' '.join(map(quote, words))}"], cwd=tmp_path, check=True, capture_output=True)
    assert not list(tmp_path.iterdir())


def test_windows_words_hold_nothing_that_cmd_or_powershell_expands(monkeypatch):
    monkeypatch.setattr(text.os, "name", "nt")
    assert quote("logs\\44k\\G_1.pth") == "logs\\44k\\G_1.pth"
    assert quote("my song.wav") == '"my song.wav"'
    assert quote('$(x) %PATH% `y` "&del') == '"?(x) ?PATH? ?y? ?&del"'


def test_a_list_of_names_stays_one_short_line():
    assert listing(["a", "b\n"]) == "a, b\\n" and listing([]) == ""
    assert listing(range(100_000)).endswith("18, 19 and 99980 more")


def test_one_thing_is_not_several():
    assert [counted(number, "clip") for number in (0, 1, 2)] == ["0 clips", "1 clip", "2 clips"]
