"""The tab Train in a browser: recordings in, a training that is stopped, orphaned and resumed, and a song out."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import soundfile
from tiny_training import SMALL_DECODER

from modules.config.edits import Design
from modules.webui import train

ROOT = Path(__file__).resolve().parents[2]
VOICE = ROOT / "samples" / "voices" / "be_ksenya_f"
PHONE = {"width": 390, "height": 844}
STEPS = 8


expect = pytest.importorskip("playwright.sync_api").expect


def open_train(open_page, url, **context):
    page = open_page(url, **context)
    page.get_by_role("tab", name="Train").click()
    page.locator("#train_start").wait_for()
    return page


def wait_for_state(page, text, seconds=120):
    page.locator("#train_state", has_text=text).wait_for(timeout=1000 * seconds)


def test_recordings_are_kept_in_dataset_raw_and_other_files_refused_in_a_line(server, open_page, tmp_path):
    raw = server.workspace / "dataset_raw"
    (raw / "<b>bold").mkdir(parents=True)
    (tmp_path / "<i>notes.txt").write_text("do re mi")
    page = open_train(open_page, server.url)
    page.locator("#train_speaker input, #train_speaker textarea").fill("../../x")
    page.locator("#train_files input").set_input_files([tmp_path / "<i>notes.txt", VOICE / "be_ksenya_f_001.flac"])
    page.get_by_text("be_ksenya_f_001").first.wait_for()
    page.locator("#train_add").click()
    page.get_by_text("notes.txt: ").first.wait_for()  # the toast
    page.locator("#train_speakers td", has_text="_.._x").wait_for()
    assert page.locator("#train_speakers td").first.inner_text() == "<b>bold"
    assert not page.locator("#train_speakers b, .toast-body i").count()
    assert [path.name for path in raw.rglob("*") if path.is_file()] == ["be_ksenya_f_001.flac"]
    assert not [path for path in server.workspace.parent.iterdir() if path != server.workspace]

    page.locator("#train_samples").click()
    page.locator("#train_speakers td", has_text="it_carlo_m_16k").wait_for()
    assert len(list((raw / "be_ksenya_f").iterdir())) == len(list(VOICE.iterdir()))


def test_other_programs_read_the_state_and_cannot_leave_the_workspace(server):
    from gradio_client import Client
    from gradio_client.exceptions import AppError

    client = Client(server.url, verbose=False)
    assert client.predict(api_name="/train_state") == {"status": "none"}
    for call in (
        (["clips"], {"clips": {"in_dir": "../"}}),
        (["training"], {"training": {"model": "../x"}}),
        (["doctor"], {"doctor": {"html": "x.html"}}),
    ):
        with pytest.raises(AppError):
            client.predict(*call, api_name="/train_start")
    with pytest.raises(AppError, match="no training is running"):
        client.predict(api_name="/train_stop")
    assert client.predict(api_name="/train_state") == {"status": "none"}, "nothing was started"


@pytest.mark.parametrize("ended, codes, status", [(False, [0], "interrupted"), (True, [0, 143], "stopped")])
def test_what_did_not_end_by_itself_can_be_resumed(tmp_path, monkeypatch, ended, codes, status):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".webui" / "jobs" / "2026-01-01-00-00-00-001-train"
    folder.mkdir(parents=True)
    entries = [{"name": name, "command": [f"{name}.py"], "goes_on": False} for name in ("resample", "train")]
    about = {"run": "44k", "chosen": ["clips", "training"], "settings": {}}
    (folder / "job.json").write_text(json.dumps({"kind": "train", "about": about, "stages": entries}))
    (folder / "state.json").write_text(json.dumps({"codes": codes, "has_begun": True, "has_ended": ended}))
    if status == "stopped":
        (folder / "stop").touch()
    shown = dict(zip(train.SHOWN, train.show([], ["mel"], "mel")))
    assert shown["resume"]["interactive"] and not shown["stop"]["interactive"] and not shown["timer"].active
    assert status in shown["state"] and "✗" not in shown["state"]
    assert "none yet" in shown["loss_plot"] and "none yet" in shown["score_plot"]


def make_takes(workspace):
    """Four short takes in a folder of their own, a song, and a config whose training takes seconds."""
    for number in range(1, 5):
        path = VOICE / f"be_ksenya_f_{number:03}.flac"
        (workspace / "takes" / "ksenya").mkdir(parents=True, exist_ok=True)
        wav, rate = soundfile.read(path)
        soundfile.write(workspace / "takes" / "ksenya" / path.name, wav[: 3 * rate], rate)
    (workspace / "raw").mkdir()
    soundfile.write(workspace / "raw" / "song.wav", wav[: 2 * rate], rate)
    config = Design("micro", "whisper-ppg-base", 512, with_volume=True).config()
    config["model"] |= SMALL_DECODER
    config["train"] |= {"log_interval": 1, "eval_interval": STEPS, "batch_size": 2}
    (workspace / "configs").mkdir()
    (workspace / "configs" / "config.json").write_text(json.dumps({**config, "spk": {}}), "utf-8")


def fill_form(page):
    """The settings of a small voice on a CPU, made smaller."""
    page.locator("#train_small").click()
    page.locator("#train_lists_vol_aug input:checked").wait_for()
    choose(page, "train_lists_preset", "micro")
    choose(page, "train_training_base", "none")
    page.locator("#train_training_max_steps input").fill(str(STEPS))
    page.locator("#train_folder button").first.click()
    page.locator("#train_clips_in_dir textarea, #train_clips_in_dir input").first.fill("takes")
    page.locator("#train_speakers td", has_text="ksenya").wait_for()


def choose(page, name, wanted):
    page.locator(f"#{name} input").click()
    page.get_by_role("option", name=wanted, exact=True).click()


def fits(page) -> bool:
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_training_outlives_its_server_and_is_stopped_resumed_and_sung_with(server, start_server, open_page):
    """The last one of the file: it kills the server."""
    make_takes(server.workspace)
    page = open_train(open_page, server.url)
    fill_form(page)
    page.locator("#train_start").click()
    wait_for_state(page, "The doctor found what would spoil the training")  # 12 seconds are no voice
    page.frame_locator("#train_report iframe").get_by_text("2 are the least").first.wait_for()
    for name in ("Doctor: recordings", "Doctor: everything"):
        page.locator("#train_stages").get_by_label(name).uncheck()
    page.locator("#train_start").click()
    wait_for_state(page, "▶ Clips")
    page.locator("#train_start").click()
    page.get_by_text("is running. Wait for it").first.wait_for()
    server.kill()
    page.close()

    logs = server.workspace / "logs" / "44k"
    script = pause_training(server.workspace)
    with start_server(server.workspace) as second:
        page = open_train(open_page, second.url, size=PHONE)
        expect(page.locator("#train_training_max_steps input")).to_have_value(str(STEPS))  # as it was started
        wait_for_state(page, "▶ Training")
        assert fits(page)
        page.locator("#train_stop").click()
        wait_for_state(page, "It saves, then it ends")
        os.kill(script, signal.SIGCONT)
        wait_for_state(page, "stopped; what was made is kept")
        (saved,) = logs.glob("G_*[0-9].pth")
        assert int(saved.stem[2:]) < STEPS

        page.reload()
        page.get_by_role("tab", name="Train").click()
        wait_for_state(page, "stopped; what was made is kept")
        page.locator("#train_resume").click()
        wait_for_state(page, "done")
        assert (logs / f"G_{STEPS}.pth").is_file() and (logs / "feature_and_index.json").is_file()
        expect(page.locator("#train_losses svg polyline")).to_have_count(2)  # total and mel
        expect(page.locator("#train_scores svg polyline")).to_have_count(1)
        assert f"saved logs/44k/G_{STEPS}.pth" in page.locator("#train_log").inner_text()
        state = read_state(second.url)
        assert state["status"] == "done" and state["codes"] == [0] * 5

        page.locator("#preview_refresh").click()
        choose(page, "preview_speaker", "ksenya")
        page.locator("#preview_sing").click()
        page.locator("#preview_state", has_text="done").wait_for()
        link = page.locator("#preview_player").get_by_test_id("download-link").get_attribute("href")
        (song,) = (server.workspace / "results").glob("song.wav_*_ksenya_sovits_fcpe.flac")
        assert page.request.get(link).body() == song.read_bytes()
        assert fits(page)


def pause_training(workspace: Path) -> int:
    """Holds the training at one of its first steps, so that nothing depends on the machine's speed; its number."""
    log, deadline = workspace / "logs/44k/train.log", time.monotonic() + 120
    while not (log.is_file() and "step 1," in log.read_text("utf-8")):
        assert time.monotonic() < deadline, "the training does not begin"
        time.sleep(0.01)
    runner = sorted((workspace / ".webui/jobs").glob("*-train/.lock"))[-1].read_text().split()[0]
    children = subprocess.run(["pgrep", "-P", runner], capture_output=True, text=True, check=True)
    script = int(children.stdout)
    os.kill(script, signal.SIGSTOP)
    return script


def read_state(url):
    from gradio_client import Client

    return Client(url, verbose=False).predict(api_name="/train_state")
