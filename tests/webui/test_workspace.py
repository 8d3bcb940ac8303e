"""The page reaches the workspace and nothing else, and keeps what is uploaded without replacing anything."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import inference_main
from modules.errors import UsageError
from modules.webui import conversion, pickers, preview, workspace

needs_links = pytest.mark.skipif(os.name == "nt", reason="makes symbolic links")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    here = tmp_path / "workspace"
    here.mkdir()
    monkeypatch.chdir(here)
    (tmp_path / "secret.wav").write_bytes(b"secret")
    return here


def upload(name: str, seconds: float = 0.5, content: bytes | None = None) -> str:
    path = workspace.UPLOADS / "abc" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        soundfile.write(path, np.sin(np.arange(int(16000 * seconds)) / 10), 16000, format="WAV")
    else:
        path.write_bytes(content)
    return str(path.resolve())


OUTSIDE = ["../secret.wav", "raw/../../secret.wav", "/etc/passwd", "/", "..", "", " ", "a\0b", ".webui/jobs", ".git"]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_out_is_refused(path, folder):
    with pytest.raises(UsageError, match=r"outside the workspace|no file is named|is hidden"):
        workspace.inside(path, must_exist=False)


@needs_links
def test_a_link_that_leads_out_is_refused_and_not_listed(folder):
    (folder / "raw").mkdir()
    (folder / "raw/song.wav").symlink_to(folder.parent / "secret.wav")
    (folder / "raw/loop.wav").symlink_to("loop.wav")
    (folder / "out").symlink_to(folder.parent)
    (folder / "raw/real.wav").write_bytes(b"x")
    (folder / "raw/same.wav").symlink_to("real.wav")
    for path in ("raw/song.wav", "out/secret.wav", "raw/loop.wav"):
        with pytest.raises(UsageError, match=r"outside the workspace|leads back to itself|no such file|loop"):
            workspace.inside(path)
    assert workspace.songs() == [Path("raw/real.wav")]


def test_what_comes_with_the_code_is_readable_from_any_workspace():
    assert workspace.inside(workspace.INCLUDED / "G_0.pth") == workspace.INCLUDED / "G_0.pth"
    with pytest.raises(UsageError, match="outside the workspace"):
        workspace.inside(workspace.CODE_ROOT / "train.py")


def test_a_path_inside_comes_back_as_one_would_type_it(folder):
    (folder / "raw").mkdir()
    (folder / "raw/ä b.wav").write_bytes(b"x")
    for path in ("raw/ä b.wav", folder / "raw/ä b.wav", "raw/../raw/ä b.wav"):
        assert workspace.inside(path) == Path("raw/ä b.wav")


def make_voice(folder: Path, *names: str, config: str | None = "config.json", spk: dict | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    if config:
        plain = json.loads((workspace.INCLUDED / "config.json").read_text("utf-8"))
        (folder / config).write_text(json.dumps({**plain, "spk": spk or {"alto": 0}}), "utf-8")


def test_voices_are_listed_the_newest_first_and_the_included_one_last():
    make_voice(Path("trained/friend"), "voice.pth", config="friend.json", spk={"<b>": 0, "tenor": 1})
    os.utime("trained/friend", (1, 1))
    make_voice(Path("logs/44k"), "G_100.pth", "G_2000.pth", "D_2000.pth", "G_best.pth", "kmeans_10000.pt")
    names = [path.as_posix() for path in workspace.models()]
    assert names[:4] == [
        "logs/44k/G_best.pth", "logs/44k/G_2000.pth", "logs/44k/G_100.pth", "trained/friend/voice.pth"
    ]  # fmt: skip
    assert names[4:] == [(workspace.INCLUDED / "G_0.pth").as_posix()]
    assert workspace.config_of(Path("trained/friend/voice.pth")) == Path("trained/friend/friend.json")
    assert workspace.speakers_of(Path("trained/friend/friend.json")) == ["<b>", "tenor"]
    assert workspace.retrievals() == [Path("logs/44k/kmeans_10000.pt")]


def test_the_included_voice_is_called_so_from_every_workspace(monkeypatch):
    for place in (Path.cwd(), workspace.CODE_ROOT):
        monkeypatch.chdir(place)
        label, value = pickers.voice_choices()[-1]
        assert label == "base-small (included)" and Path(value).resolve() == workspace.INCLUDED / "G_0.pth"


def test_uploads_that_are_audio_are_kept_and_the_others_named():
    files = [upload("a.wav"), upload("b.wav", content=b"not audio at all"), upload("c.wav", content=b"")]
    kept, problems = workspace.keep_sounds(files, workspace.SONGS)
    assert kept == [Path("raw/a.wav")]
    assert [problem.split(":")[0] for problem in problems] == ["b.wav", "c.wav"]
    assert "abc" not in " ".join(problems), "the place of an upload tells nobody anything"


def test_an_upload_replaces_nothing():
    workspace.keep_sounds([upload("a.wav", 0.5)], workspace.SONGS)
    before = Path("raw/a.wav").read_bytes()
    kept, _ = workspace.keep_sounds([upload("a.wav", 0.7)], workspace.SONGS)
    assert kept == [Path("raw/a_2.wav")] and Path("raw/a.wav").read_bytes() == before
    kept, _ = workspace.keep_sounds([upload("a.wav", 0.5)], workspace.SONGS)
    assert kept == [Path("raw/a.wav")], "the same again is not kept twice"


@needs_links
def test_nothing_is_written_through_a_link_that_leads_out(folder):
    (folder / "raw").symlink_to(folder.parent)
    kept, problems = workspace.keep_sounds([upload("a.wav")], workspace.SONGS)
    assert not kept and "outside the workspace" in problems[0]
    assert not (folder.parent / "a.wav").exists()


def test_what_was_not_uploaded_is_no_upload(folder):
    (folder / "mine.wav").write_bytes(Path(upload("a.wav")).read_bytes())
    for path in (folder / "mine.wav", "/etc/passwd", workspace.UPLOADS / ".." / ".." / "mine.wav"):
        kept, problems = workspace.keep_sounds([str(path)], workspace.SONGS)
        assert not kept and "was not uploaded here" in problems[0]


def test_a_voice_of_others_goes_into_its_own_folder():
    files = [upload("voice.pth", content=b"x"), upload("config.json", content=b"{}")]
    assert workspace.keep_model(files, "a/../b") == [
        Path("trained/a_.._b/voice.pth"), Path("trained/a_.._b/config.json")
    ]  # fmt: skip
    with pytest.raises(UsageError, match=r"run\.py: expected a file that ends in"):
        workspace.keep_model([upload("run.py", content=b"x")], "b")


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../x.wav", "_.._x.wav"),
        ("-rf", "rf"),
        ("a\nb", "a_b"),
        ("..x", "x"),
        ("ü ö", "ü ö"),
        ("x" * 300, "x" * 150),
    ],
)
def test_names_are_made_safe(name, safe):
    assert workspace.safe_name(name) == safe


@pytest.mark.parametrize("name", ["", "..", " ", "---", "CON", "nul.wav"])
def test_a_name_of_which_nothing_is_left_is_refused(name):
    with pytest.raises(UsageError, match="is no name of a file or folder"):
        workspace.safe_name(name)


def test_samples_come_once_and_stay_as_the_user_has_them():
    workspace.copy_samples()
    assert set(workspace.speakers_in()) == {"be_ksenya_f", "it_carlo_m_16k"}
    song = workspace.copy_sample_song()
    assert song == Path("raw/sing_vocadito_14.flac") == workspace.copy_sample_song()


def test_the_list_of_speakers_says_what_they_sing_well_where_the_model_does():
    model = workspace.INCLUDED / "G_0.pth"
    shown = dict(pickers.show_speakers(str(model), None, ["ru_edwin_m"]).choices)
    assert shown["be_ksenya_f (F#2-A4)"] == "be_ksenya_f" and len(shown) == 7
    assert pickers.show_speakers(str(model), None, ["ru_edwin_m"]).value == ["ru_edwin_m"]
    Path("v").mkdir()
    Path("v/G_1.pth").write_bytes(b"damaged")
    Path("v/config.json").write_text((workspace.INCLUDED / "config.json").read_text("utf-8"), "utf-8")
    assert ("be_ksenya_f", "be_ksenya_f") in pickers.show_speakers("v/G_1.pth", None, []).choices


def test_what_was_sung_at_evaluations_can_be_heard_the_newest_first(folder):
    assert preview._choices("alto", None, None)[2]["visible"] is False
    run = folder / "logs" / "alto"
    (run / "preview").mkdir(parents=True)
    shutil.copy(workspace.INCLUDED / "config.json", run / "config.json")
    for step in (2, 10):
        made = run / "preview" / f"{step}.flac"
        made.write_bytes(b"sung")
        os.utime(made, (step, step))
    found = preview._choices("alto", None, None)[2]
    assert found["visible"] and found["choices"] == ["logs/alto/preview/10.flac", "logs/alto/preview/2.flac"]


def test_a_curve_is_kept_where_the_list_finds_it_and_what_is_none_is_refused():
    kept = workspace.keep_curve(upload("song ü.csv", content=b"time,hz\n0,220\n1,220\n"))
    made = workspace.CURVES / "20260101-120000" / "song.csv"
    made.parent.mkdir(parents=True)
    made.write_text("0,220\n1,220\n", "utf-8")
    assert kept.as_posix() == "raw/song ü.csv" and workspace.curves() == [kept, made]
    with pytest.raises(UsageError, match=r"--f0_in bad\.csv, line 2: hz is '9'") as error:
        workspace.keep_curve(upload("bad.csv", content=b"time,hz\n0,9\n"))
    assert str(workspace.UPLOADS) not in str(error.value)
    with pytest.raises(UsageError, match="was not uploaded here"):
        workspace.keep_curve("../secret.wav")


def test_the_box_for_a_curve_becomes_a_folder_of_its_own_and_a_name_stays_inside(folder):
    soundfile.write(folder / "song.wav", np.zeros(100), 16000)

    def place(value):
        parser = inference_main.make_arguments()
        model = str(workspace.INCLUDED / "G_0.pth")
        return conversion.verify(parser, model, ["song.wav"], ["x"], {"f0_out": value}).get("f0_out")

    assert place(True).startswith(f"{workspace.CURVES.as_posix()}/2") and place(False) is None
    assert place("results/mine.csv") == "results/mine.csv"
    with pytest.raises(UsageError, match="lies outside the workspace"):
        place("../mine.csv")
