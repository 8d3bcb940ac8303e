"""Downloads against a server that breaks, stalls, lies and changes its mind."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from download_server import BODY, SHA

from modules.errors import DownloadError
from modules.pretrained import download
from modules.pretrained.download import extract_members, fetch

ROOT = Path(__file__).resolve().parents[2]
QUICK = {"tries": 3, "stall_seconds": 0.4, "pause_seconds": 0.01}


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "pretrain" / "a file.pt"


def give_up(server, target: Path) -> None:
    """A run that brings 200,000 bytes and ends; the server is well again afterwards."""
    server.breaks = [200_000, 0, 0, 0]
    with pytest.raises(DownloadError, match=r"ended after 200000 of 700000 bytes, 3 times in a row.*same command"):
        fetch(server.url, target, None, **QUICK)
    server.breaks = []


def left_over(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


@pytest.mark.parametrize("sha256", [SHA, SHA[:8], None])
def test_a_file_comes_whole_and_alone(server, target, sha256):
    assert fetch(server.url, target, sha256, **QUICK) == SHA
    assert target.read_bytes() == BODY and left_over(target) == ["a file.pt"]


def test_redirections_are_followed(server, target):
    fetch(server.url.replace("file.pt", "moved"), target, SHA, **QUICK)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("stalls", [False, True])
def test_a_broken_transfer_asks_for_the_rest_only(server, target, stalls):
    server.breaks, server.stalls = [300_000, 100_000, None], stalls
    fetch(server.url, target, SHA, **QUICK)
    assert server.requests == [None, "bytes=300000-", "bytes=400000-"]
    assert target.read_bytes() == BODY and left_over(target) == ["a file.pt"]


def test_another_run_goes_on_where_the_first_gave_up(server, target):
    give_up(server, target)
    assert not target.exists() and left_over(target) == ["a file.pt.part", "a file.pt.part.json"]
    server.requests.clear()
    fetch(server.url, target, SHA, **QUICK)
    assert server.requests == ["bytes=200000-"] and target.read_bytes() == BODY


def test_ctrl_c_keeps_what_came(server, target, monkeypatch):
    class Bar(download.tqdm):
        def update(self, n=1):
            super().update(n)
            if self.n > 100_000:
                raise KeyboardInterrupt

    monkeypatch.setattr(download, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        fetch(server.url, target, SHA, **QUICK)
    kept = (target.parent / "a file.pt.part").stat().st_size
    assert 100_000 < kept < 700_000
    monkeypatch.undo()
    fetch(server.url, target, SHA, **QUICK)
    assert server.requests[-1] == f"bytes={kept}-" and target.read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_from_the_start(server, target):
    give_up(server, target)
    server.body, server.etag = BODY[::-1], '"two"'
    fetch(server.url, target, None, **QUICK)
    assert target.read_bytes() == BODY[::-1]


@pytest.mark.parametrize(
    "etag, last_modified", [(None, None), ('W/"weak"', None), (None, "Mon, 01 Jan 2024 00:00:00 GMT")]
)
def test_without_a_version_to_go_by_it_starts_over(server, target, etag, last_modified):
    server.etag, server.last_modified, server.breaks = etag, last_modified, [200_000]
    fetch(server.url, target, SHA, **QUICK)
    assert server.requests[1] == ("bytes=200000-" if last_modified else None) and target.read_bytes() == BODY


def test_a_server_without_ranges_sends_it_all_again(server, target):
    server.ranges, server.breaks = False, [200_000]
    fetch(server.url, target, SHA, **QUICK)
    assert target.read_bytes() == BODY


def test_a_server_that_sends_another_range_is_asked_for_everything(server, target):
    server.breaks, server.wrong_range = [200_000], True
    fetch(server.url, target, SHA, **QUICK)
    assert server.requests == [None, "bytes=200000-", None] and target.read_bytes() == BODY


def test_a_part_that_is_whole_already_is_recognised(server, target):
    give_up(server, target)
    (target.parent / "a file.pt.part").write_bytes(BODY)
    assert fetch(server.url, target, SHA, **QUICK) == SHA and server.requests[-1] == "bytes=700000-"


def test_a_part_that_is_longer_than_the_file_starts_over(server, target):
    give_up(server, target)
    (target.parent / "a file.pt.part").write_bytes(BODY + b"more")
    assert fetch(server.url, target, SHA, **QUICK) == SHA


def test_fewer_bytes_than_announced_are_an_error_that_keeps_them(server, target):
    server.announced = 800_000
    with pytest.raises(DownloadError, match=r"same command goes on"):
        fetch(server.url, target, SHA, **QUICK)
    assert not target.exists()


def test_more_bytes_than_announced_never_become_the_file(server, target):
    server.announced = 600_000
    with pytest.raises(DownloadError, match="is not the published file"):
        fetch(server.url, target, SHA, **QUICK)
    assert not target.exists()


def test_no_announced_length_is_fine(server, target):
    server.announced = -1
    assert fetch(server.url, target, SHA, **QUICK) == SHA


def test_a_wrong_file_is_deleted_and_both_sums_are_named(server, target):
    with pytest.raises(DownloadError, match=rf"sha256 {SHA[:16]}\.\.\., expected 0123"):
        fetch(server.url, target, "0123" * 16, **QUICK)
    assert left_over(target) == []


def test_an_older_file_stays_until_the_new_one_is_whole(server, target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(DownloadError):
        fetch(server.url, target, "0123" * 16, **QUICK)
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    "kind, body", [("text/html", BODY), ("application/x", b" <!doctype html>\n<html>sign in</html>")]
)
def test_a_web_page_is_not_taken_for_the_file(server, target, kind, body):
    server.kind, server.body = kind, body
    with pytest.raises(DownloadError, match="a web page came instead of a file"):
        fetch(server.url, target, None, **QUICK)
    assert not target.exists()


@pytest.mark.parametrize("status, tries", [(404, 1), (403, 1), (503, 3)])
def test_refusals_are_named_and_only_passing_ones_are_tried_again(server, target, status, tries):
    server.status = status
    with pytest.raises(DownloadError, match=str(status)):
        fetch(server.url, target, None, **QUICK)
    assert len(server.requests) == tries


def test_nobody_there_and_bad_addresses_are_one_line(target):
    with pytest.raises(DownloadError, match="no connection"):
        fetch("http://127.0.0.1:9/x", target, None, **QUICK)
    with pytest.raises(DownloadError, match="not a usable address"):
        fetch("not an address", target, None, **QUICK)


def test_a_full_disk_is_said_before_and_during(server, target, monkeypatch):
    usage = download.shutil.disk_usage(Path())
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(DownloadError, match="Free some disk space"):
        fetch(server.url, target, None, **QUICK)
    monkeypatch.undo()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(DownloadError, match=r"the disk is full.*same command"):
        fetch(server.url, target, None, **QUICK)


def test_two_processes_do_not_fetch_one_file(server, target):
    target.parent.mkdir()
    lock = target.with_name(target.name + ".lock")
    code = f"from modules.files import take_lock; f = open({str(lock)!r}, 'a'); take_lock(f.fileno()); print(); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes) as other:
        other.stdout.readline()
        with pytest.raises(DownloadError, match="another process"):
            fetch(server.url, target, None, **QUICK)
        other.communicate(b"\n")
    fetch(server.url, target, None, **QUICK)


def make_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def test_members_go_to_their_places(tmp_path):
    archive = make_zip(tmp_path / "a.zip", **{"deep/model": b"m", "config.json": b"{}"})
    extract_members(archive, {"model": tmp_path / "x/model", "config.json": tmp_path / "x/c.json"})
    assert (tmp_path / "x/model").read_bytes() == b"m" and (tmp_path / "x/c.json").read_bytes() == b"{}"


@pytest.mark.parametrize("name", ["../model", "/model", "a/../../model", "C:/model", "..\\model"])
def test_members_that_lead_out_of_the_folder_are_refused(tmp_path, name):
    archive = make_zip(tmp_path / "a.zip", **{name: b"m"})
    with pytest.raises(DownloadError, match=r"leads out of the folder|holds no"):
        extract_members(archive, {"model": tmp_path / "x/model"})
    assert not (tmp_path / "x/model").exists()


def test_links_bombs_gaps_and_damage_are_refused(tmp_path, monkeypatch):
    link = zipfile.ZipInfo("model")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="leads out"):
        extract_members(tmp_path / "link.zip", {"model": tmp_path / "model"})
    archive = make_zip(tmp_path / "a.zip", other=b"x" * 2000)
    with pytest.raises(DownloadError, match="holds no model; it holds other"):
        extract_members(archive, {"model": tmp_path / "model"})
    monkeypatch.setattr(download, "_LARGEST_MEMBER", 1000)
    with pytest.raises(DownloadError, match="would be"):
        extract_members(archive, {"other": tmp_path / "model"})
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("model", BODY[:500] * 2)
    damaged = bytearray((tmp_path / "bad.zip").read_bytes())
    damaged[40:300] = bytes(260)
    (tmp_path / "bad.zip").write_bytes(damaged)
    with pytest.raises(DownloadError, match="not a usable zip"):
        extract_members(tmp_path / "bad.zip", {"model": tmp_path / "model"})
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    with pytest.raises(DownloadError, match="not a usable zip"):
        extract_members(tmp_path / "bad.zip", {"model": tmp_path / "model"})
    assert not (tmp_path / "model").exists()


def test_the_note_of_a_part_is_plain_json(server, target):
    give_up(server, target)
    note = json.loads((target.parent / "a file.pt.part.json").read_text("utf-8"))
    assert note == {"url": server.url, "version": '"one"', "total": 700_000}
