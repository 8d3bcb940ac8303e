"""One check that fails, and what loaders say, as findings."""

import logging

from modules.doctor.findings import Finding
from modules.doctor.guard import from_text, guarded, listening
from modules.errors import DataError


def test_a_check_that_fails_keeps_what_it_has_found_and_says_why():
    def check(name: str):
        yield Finding("config", "error", "rate", name, "is wrong")
        raise RuntimeError("of a kind\nthat \x1b[31m nobody thought of")

    first, second = guarded("config", "lists", check, "a")
    assert first.subject == "a" and (second.level, second.kind, second.subject) == ("warning", "unchecked", "lists")
    assert "nobody thought of" in second.text and "\x1b" not in second.text and "\n" not in second.text


def test_an_error_of_ours_is_split_into_what_is_wrong_and_what_to_do():
    found = from_text("config", "error", "list", "a.txt", DataError("a.txt: lists no clips. Make it with: python x.py"))
    assert (found.text, found.remedy) == ("lists no clips", "Make it with: python x.py")
    assert str(found) == "a.txt: lists no clips. Make it with: python x.py"
    found = from_text("config", "error", "list", "a.txt", "has 0.5 s of sound, and no remedy.")
    assert (found.text, found.remedy) == ("has 0.5 s of sound, and no remedy", "")


def test_control_characters_of_foreign_names_reach_no_terminal():
    found = from_text("models", "error", "x", "\x1b[31mred", "\x1b[31mred: is \x07 damaged. Delete \x1b[0m it")
    assert "\x1b" not in str(found) + found.remedy and "\x07" not in found.text


def test_warnings_of_our_modules_are_collected_and_printed_nowhere_else(caplog):
    ours = logging.getLogger("modules.config.io")
    with listening() as said:
        ours.warning("%s: unknown keys", "config.json")
        ours.info("a fact")
    assert said == ["config.json: unknown keys"] and not caplog.records
    ours.warning("afterwards")
    assert [record.getMessage() for record in caplog.records] == ["afterwards"] and len(said) == 1
