"""The tab Convert in a real browser and over its endpoints, with the included voice."""

import itertools
import json
import re
import shutil
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from playwright.sync_api import expect

import cover
import inference_main
from modules.webui import conversion, forms, pickers, workspace
from modules.webui.conversion import CONVERT, COVER, OWN
from modules.webui.results import describe
from tests.webui.conftest import PHONE, ROOT

INCLUDED = str(ROOT / "pretrain" / "base-small" / "G_0.pth")
SPEAKER = "be_ksenya_f"
MARKUP = '<img src=x onerror="window.hacked=1">'
DONE = 90_000  # milliseconds that a conversion may take on a busy machine


def write_song(path: Path, seconds: float = 1.0) -> Path:
    """A sweep from 200 to 300 Hz with its first overtones."""
    time_axis = np.arange(int(44100 * seconds)) / 44100
    phase = 2 * np.pi * (200 * time_axis + 50 * time_axis**2 / seconds)
    wav = sum(np.sin(n * phase) / n for n in range(1, 6))
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.2 * wav, 44100)
    return path


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url, verbose=False)


def refusal(client: Client, songs=("song.wav",), model=INCLUDED, speakers=(SPEAKER,), settings=None) -> str:
    """What the endpoint answers to a request that it refuses."""
    with pytest.raises(AppError) as caught:
        client.predict(model, list(songs), list(speakers), settings or {}, api_name="/convert")
    return str(caught.value)


def ask_past_the_client(server, client: Client, name: str, data: list) -> str:
    """The server's events for a request as given; the client would upload the files that it names."""
    number = next(entry["id"] for entry in client.config["dependencies"] if entry["api_name"] == name)
    body = json.dumps({"fn_index": number, "data": data, "session_hash": "stranger"}).encode()
    headers = {"content-type": "application/json"}
    with urlopen(Request(f"{server.url}/gradio_api/queue/join", body, headers), timeout=60):
        pass
    with urlopen(f"{server.url}/gradio_api/queue/data?session_hash=stranger", timeout=60) as events:
        return next(line.decode() for line in events if b"process_completed" in line)


def jobs_of(server) -> list[Path]:
    return sorted((server.workspace / ".webui" / "jobs").glob("*-convert"))


@pytest.mark.parametrize(("form", "script"), [(CONVERT, inference_main), (COVER, cover)])
def test_every_flag_is_on_the_page_once_or_given_by_its_lists(client, form, script):
    found = [component["props"].get("elem_id") for component in client.config["components"]]
    for name in forms.actions(script.make_arguments()):
        assert found.count(f"{form.kind}_flag_{name}") == (0 if name in OWN else 1), name


def cover_of(client: Client, settings: dict) -> dict:
    """What the endpoint answers to a request without songs."""
    return client.predict(INCLUDED, [], [SPEAKER], settings, api_name="/cover")


def test_a_cover_is_a_job_of_its_own_whose_mistakes_are_told(server, client):
    stems = {name: write_song(server.workspace / "raw" / f"{name}.wav").as_posix() for name in ("vocals", "music")}
    wanted = {name: f"raw/{name}.wav" for name in stems}
    cases = {
        "no song is chosen": {},
        "/etc/passwd": wanted | {"music": "/etc/passwd"},
        "clean_names is no setting": wanted | {"clean_names": ["x"]},
        "unknown output format 'nosuch'": wanted | {"wav_format": "nosuch"},  # what the script itself says
    }
    for text, settings in cases.items():
        with pytest.raises(AppError, match=text):
            cover_of(client, settings)
    (job,) = (server.workspace / ".webui" / "jobs").glob("*-cover")
    (stage,) = json.loads((job / "job.json").read_text("utf-8"))["stages"]
    flags = ["--vocals", "raw/vocals.wav", "--music", "raw/music.wav"]
    assert stage["command"][0] == "cover.py" and stage["command"][-4:] == flags


@pytest.mark.slow
def test_a_cover_is_made_of_uploaded_stems(server, open_page, tmp_path):
    page = open_page(server.url)
    page.get_by_role("tab", name="Cover").click()
    page.get_by_role("button", name="Stems and mix").click()
    for name in ("vocals", "music"):
        file = write_song(tmp_path / f"{name} ü.wav")
        with page.expect_file_chooser() as chooser:
            page.locator(f"#cover_flag_{name}_upload").click()
        chooser.value.set_files(file)
        expect(page.locator(f"#cover_flag_{name} input")).to_have_value(file.name)
    page.locator("#cover").click()
    expect(page.locator("#cover_status .status")).to_have_text("done", timeout=DONE)
    expect(page.locator("#cover_figures")).to_contain_text("_cover.flac")
    page.locator("#cover_sung").get_by_label("Play", exact=True).wait_for()


def test_an_upload_is_converted_by_a_program(server, client, tmp_path):
    song = write_song(tmp_path / "song.wav")
    text = tmp_path / "text.wav"
    text.write_text("no audio")
    songs, problems = client.predict([handle_file(str(song)), handle_file(str(text))], api_name="/upload_songs")
    assert songs == ["raw/song.wav"]
    assert len(problems) == 1 and problems[0].startswith("text.wav: ")
    answer = client.predict(INCLUDED, songs, [SPEAKER], {"trans": 2, "wav_format": "wav"}, api_name="/convert")
    assert answer["status"] == "done" and not answer["errors"]
    (made,) = answer["results"]
    assert made["source"] == "raw/song.wav" and made["transpose"] == 2
    assert made["result"] == f"results/song.wav_2key_{SPEAKER}_sovits_pm.wav"
    assert soundfile.info(server.workspace / made["result"]).frames == soundfile.info(song).frames


def test_paths_outside_the_workspace_are_refused_by_name(server, client, tmp_path):
    outside = write_song(tmp_path / "outside.wav")
    write_song(server.workspace / "raw" / "song.wav")
    (server.workspace / "raw" / "link.wav").symlink_to(outside)
    before = jobs_of(server)
    for song in ("../x", "../../x.wav", "/etc/passwd", str(outside), "link.wav", "raw/link.wav", ".webui/jobs"):
        assert song.removeprefix("raw/") in refusal(client, [song]), song
    for model in ("/etc/passwd", "../G_0.pth", "no_such.pth"):
        assert model in refusal(client, model=model), model
    for flag in ("config_path", "mix_path", "cluster_model_path", "diffusion_model_path", "diffusion_config_path"):
        assert "/etc/passwd" in refusal(client, settings={flag: "/etc/passwd"}), flag
    assert jobs_of(server) == before
    answer = ask_past_the_client(server, client, "upload_songs", [[{"path": str(outside)}]])
    assert "outside.wav: was not uploaded here" in answer
    as_upload = {"path": str(outside), "meta": {"_type": "gradio.FileData"}}
    assert '"success":false' in ask_past_the_client(server, client, "upload_songs", [[as_upload]])
    assert not (server.workspace / "raw" / "outside.wav").exists()


def test_settings_that_are_no_flags_are_refused(server, client):
    write_song(server.workspace / "raw" / "song.wav")
    before = jobs_of(server)
    assert "no_such_flag" in refusal(client, settings={"no_such_flag": 1})
    assert "clean_names" in refusal(client, settings={"clean_names": ["/etc/passwd"]})
    assert "noise scale" in refusal(client, settings={"noise_scale": [1, 2]})
    assert "dash" in refusal(client, speakers=["--json", "--overwrite"])
    assert jobs_of(server) == before
    assert "'--json': no such device" in refusal(client, settings={"device": "--json"})


def test_of_twenty_requests_at_once_none_runs_beside_another(server, client):
    write_song(server.workspace / "raw" / "song.wav")
    before = jobs_of(server)
    songs = [*["song.wav"] * 3, *["../x"] * 17]  # the last ones start no job
    asked = [
        client.submit(INCLUDED, [song], [SPEAKER], {"wav_format": "nosuch"}, api_name="/convert") for song in songs
    ]
    answers = [str(one.exception(timeout=300)) for one in asked]
    known = ("unknown output format 'nosuch'", "outside the workspace", "queue is full")
    assert all(any(text in answer.lower() for text in known) for answer in answers), answers
    spans = []
    for job in jobs_of(server):
        if job not in before:
            state = json.loads((job / "state.json").read_text("utf-8"))
            assert state["has_ended"]
            spans.append(((job / "job.json").stat().st_mtime, (job / "state.json").stat().st_mtime))
    assert len(spans) == sum("nosuch" in answer for answer in answers) >= 2
    spans.sort()
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_three_clicks_convert_the_sample_song_which_a_phone_shows_too(server, open_page):
    page = open_page(server.url)
    page.locator("#try").click()
    expect(page.locator("#convert_songs")).to_contain_text("sing_vocadito_14.flac")
    page.locator("#convert").click()
    expect(page.locator("#convert_sung")).to_contain_text("0:12", timeout=DONE)  # it is read, and can be played
    page.locator("#convert_sung").get_by_label("Play", exact=True).click()
    page.locator("#convert_sung").get_by_label("Pause", exact=True).wait_for()
    expect(page.locator("#convert_status")).to_contain_text("done")
    page.locator("#convert_source").get_by_label("Play", exact=True).wait_for()
    (made,) = (server.workspace / "results").glob("sing_vocadito_14.flac_*.flac")
    assert soundfile.info(made).duration == soundfile.info(workspace.SAMPLE_SONG).duration
    expect(page.locator("#convert_picture_state")).to_contain_text("log-f0 correlation", timeout=DONE)
    page.locator("#convert_picture img").scroll_into_view_if_needed()
    page.wait_for_function("document.querySelector('#convert_picture img').naturalWidth > 0")
    _check_phone(open_page(server.url, PHONE), made.name)


def _check_phone(page, made: str) -> None:
    """What was made before is there, and nothing is cut off."""
    expect(page.locator("#convert_figures")).to_contain_text(made, timeout=DONE)
    page.locator("#convert_sung").get_by_label("Play", exact=True).wait_for()
    for button in ("#try", "#convert", "#convert_stop", "#convert_resume"):
        expect(page.locator(button)).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.slow
def test_a_stopped_conversion_is_resumed(server, open_page, tmp_path):
    page = open_page(server.url)
    page.locator("#convert_upload input[type=file]").set_input_files(write_song(tmp_path / "resumed.wav"))
    expect(page.locator("#convert_songs")).to_contain_text("resumed.wav")
    page.locator("#convert").click()
    page.locator("#convert_stop").click()  # waits until there is something to stop
    expect(page.locator("#convert_status .status")).to_contain_text("stopped", timeout=DONE)
    assert not list((server.workspace / "results").glob("resumed*"))
    page.locator("#convert_resume").click()
    expect(page.locator("#convert_status .status")).to_have_text("done", timeout=DONE)
    expect(page.locator("#convert_status")).to_contain_text("--resume")
    expect(page.locator("#convert_figures")).to_contain_text("resumed.wav")
    expect(page.locator("#convert_resume")).to_be_disabled()
    assert len(list((server.workspace / "results").glob("resumed*"))) == 1
    page.locator("#convert_picture_state .job").wait_for()
    picture = max((server.workspace / ".webui" / "jobs").glob("*-picture"))
    (picture / "stop").write_text("stop\nstop\n")  # drawing it takes seconds
    expect(page.locator("#convert_picture_state .status")).to_contain_text("stopped")


@pytest.mark.slow
def test_a_curve_is_downloaded_and_dropped_in_again(server, open_page, tmp_path):
    page = open_page(server.url)
    page.locator("#convert_upload input[type=file]").set_input_files(write_song(tmp_path / "mended.wav"))
    expect(page.locator("#convert_songs")).to_contain_text("mended.wav")
    page.get_by_role("button", name="Melody").click()
    page.locator("#convert_flag_f0_out").get_by_role("checkbox").check()
    page.locator("#convert").click()
    expect(page.locator("#convert_figures")).to_contain_text("mended.wav", timeout=DONE)
    with page.expect_download() as download:
        page.locator("#convert_curve").click()
    curve = tmp_path / "curve ü.csv"
    download.value.save_as(curve)
    assert curve.read_text("utf-8").startswith("time,hz,voiced\n0.0")
    page.locator("#convert_flag_f0_in_drop input[type=file]").set_input_files(curve)
    expect(page.locator("#convert_flag_f0_in input")).to_have_value("raw/curve ü.csv")
    page.locator("#convert_flag_f0_out").get_by_role("checkbox").uncheck()
    page.locator("#convert").click()
    expect(page.locator("#convert_status")).to_contain_text("--f0_in")
    expect(page.locator("#convert_figures")).to_contain_text("mended.wav_0key_be_ksenya_f_sovits_pm_2", timeout=DONE)
    expect(page.locator("#convert_curve")).to_be_hidden()


@pytest.mark.slow
def test_names_with_markup_are_shown_as_text(server, open_page, tmp_path):
    shutil.copy(INCLUDED, tmp_path / "G_0.pth")
    text = Path(INCLUDED).with_name("config.json").read_text("utf-8").replace(f'"{SPEAKER}"', json.dumps(MARKUP))
    (tmp_path / "config.json").write_text(text, "utf-8")
    write_song(server.workspace / "raw" / f"{MARKUP}.wav")
    page = open_page(server.url)
    page.get_by_role("button", name="Add a voice from files").click()
    page.locator("#convert_voice_files input[type=file]").set_input_files(
        [tmp_path / "G_0.pth", tmp_path / "config.json"]
    )
    expect(page.locator("#convert_voice_files")).to_contain_text("config")
    page.locator("#convert_voice_name textarea, #convert_voice_name input").fill("../evil")
    page.locator("#convert_voice_add").click()
    expect(page.locator("#convert_voice input")).to_have_value("trained/_evil/G_0.pth")
    expect(page.locator("#convert_speakers")).to_contain_text(MARKUP)
    page.get_by_role("button", name="What is this voice?").click()
    page.locator("#convert_inspect").click()
    expect(page.locator("#convert_inspected textarea")).to_have_value(re.compile("voice model"), timeout=DONE)
    page.locator("#convert_songs input").click()
    page.get_by_role("option", name=MARKUP).click()
    page.locator("#convert_flag_wav_format input").fill("nosuch")
    page.locator("#convert_flag_wav_format input").press("Tab")
    page.locator("#convert").click()
    expect(page.locator("#convert_status .status")).to_contain_text("unknown output format 'nosuch'", timeout=DONE)
    expect(page.locator("#convert_status code")).to_contain_text("onerror")
    upload = tmp_path / f"{MARKUP}.wav"
    upload.write_text("no audio")
    page.locator("#convert_upload input[type=file]").set_input_files(upload)
    expect(page.locator(".toast-body")).to_contain_text("not an audio file")
    assert page.evaluate("window.hacked") is None
    assert not list((server.workspace / "raw").glob("*_2.wav"))


def test_choosing_files_ticks_what_they_need(server, open_page):
    diffusion = server.workspace / "logs" / "44k" / "diffusion"
    diffusion.mkdir(parents=True)
    (diffusion / "model_100.pt").touch()
    (diffusion.parent / "feature_and_index.json").write_text("{}")
    page = open_page(server.url)
    expect(page.locator("#convert_voice input")).not_to_have_value("")  # the lists are filled
    for title, name, file, ticked in (
        ("Shallow diffusion", "diffusion_model_path", "model_100.pt", "shallow_diffusion"),
        ("Retrieval", "cluster_model_path", "feature_and_index.json", "feature_retrieval"),
    ):
        page.get_by_role("button", name=title).click()
        assert not page.locator(f"#convert_flag_{ticked} input").is_checked()
        page.locator(f"#convert_flag_{name} input").click()
        page.get_by_role("option", name=file).click()
        expect(page.locator(f"#convert_flag_{ticked} input")).to_be_checked()


def test_figures_are_text():
    about = {"source": "raw/a", "result": MARKUP, "speaker": MARKUP, "transpose": 0, "already_there": True}
    assert "<img" not in describe(about) and "&lt;img" in describe(about)


def test_a_song_in_raw_is_named_by_its_place_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_song(Path("raw/album/one.wav"))
    write_song(Path("one.wav"))
    write_song(Path("raw/-two.wav"))
    parser = inference_main.make_arguments()
    songs = ["raw/album/one.wav", "album/one.wav", "one.wav", "-two.wav"]
    values = conversion.verify(parser, INCLUDED, songs, [SPEAKER], {})
    here = Path.cwd().as_posix()
    assert values["clean_names"] == ["album/one.wav", "album/one.wav", f"{here}/one.wav", f"{here}/raw/-two.wav"]
    forms.command(CONVERT.script, parser, values)


def test_the_included_voice_is_the_last_choice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "logs" / "44k").mkdir(parents=True)
    (tmp_path / "logs" / "44k" / "G_100.pth").touch()
    assert pickers.voice_choices() == [("logs/44k/G_100.pth",) * 2, ("base-small (included)", INCLUDED)]
