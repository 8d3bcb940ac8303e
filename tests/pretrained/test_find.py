"""Pretrained files are found in the workspace first, then beside the code, and their absence is explained."""

import logging

import pytest

from modules.errors import MissingWeights
from modules.files import sha256_of
from modules.pretrained import find as pretrain
from modules.pretrained.find import Weights, checksum, find, require

FILE = Weights("pretrain/x/net.pt", "https://example.org/net.pt", "0" * 64)


@pytest.fixture
def places(tmp_path, monkeypatch):
    """(workspace, code), both empty."""
    for name in ("workspace", "code"):
        (tmp_path / name / "pretrain" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "workspace")
    monkeypatch.setattr(pretrain, "CODE_ROOT", tmp_path / "code")
    return tmp_path / "workspace", tmp_path / "code"


def test_the_workspace_comes_before_the_code(places):
    workspace, code = places
    assert find(FILE.path) is None
    (code / FILE.path).write_bytes(b"code")
    assert find(FILE.path) == code / FILE.path
    (workspace / FILE.path).write_bytes(b"workspace")
    assert require(FILE) == workspace / FILE.path


def test_the_first_alternative_that_is_there_is_taken(places):
    _, code = places
    (code / FILE.path).write_bytes(b"code")
    assert require(Weights("pretrain/better.pt", "https://example.org"), FILE) == code / FILE.path


def test_absence_names_file_and_source(places):
    with pytest.raises(MissingWeights, match=r"pretrain/x/net.pt: not found .* https://example.org/net.pt"):
        require(FILE, Weights("pretrain/other.pt", "https://example.org/other.pt"))


def test_a_file_that_is_not_the_published_one_is_warned_about(places, caplog):
    _, code = places
    (code / FILE.path).write_bytes(b"code")
    with caplog.at_level(logging.WARNING):
        assert checksum(FILE) == sha256_of(code / FILE.path)
    assert "not the published file" in caplog.text
    caplog.clear()
    checksum(Weights(FILE.path, FILE.url, sha256_of(code / FILE.path)))
    assert not caplog.text


def test_a_file_that_was_packed_anew_is_known_by_its_earlier_checksum(places, caplog):
    _, code = places
    (code / FILE.path).write_bytes(b"packed anew")
    own = sha256_of(code / FILE.path)
    assert checksum(Weights(FILE.path, FILE.url, own, same_as="earlier")) == "earlier"
    assert checksum(Weights(FILE.path, FILE.url, "later", same_as=own)) == own
    assert caplog.text == ""
