"""What a client sends and gets: songs, jobs, voices, and one line for each mistake."""

import io
import json
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
from inference.fake_voice import silence, sung
from server.served import fake_voice, serving, song, until

from modules.audio.io import to_int16
from modules.inference.arguments import conversion_arguments
from modules.inference.keyword_options import CONVERTED, CURVES, PLACES
from modules.server.requests import OFFERED

SECRET = "/srv/secret"  # where the voice lies


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server"), max_mb=1, max_seconds=60) as running:
        yield running


@pytest.fixture
def voice(served):
    """The same voice once more, for what it gives by itself."""
    return fake_voice()


def test_a_result_is_byte_for_byte_the_file_that_the_python_api_writes(served, voice, tmp_path):
    content = song(3)
    (tmp_path / "mein Köln.wav").write_bytes(content)
    voice.convert_file(tmp_path / "mein Köln.wav", tmp_path / "own.flac", speaker="tenor", transpose=3, noise_scale=0.1)
    fields = {"speaker": "tenor", "transpose": "3", "noise_scale": "0.1"}
    answer = served.convert(content, "C:\\Users\\x\\mein Köln.wav", **fields)
    assert answer.status_code == 200 and answer.headers["content-type"] == "audio/flac"
    assert answer.content == (tmp_path / "own.flac").read_bytes()
    assert unquote(answer.headers["content-disposition"]).endswith("mein Köln_tenor.flac")
    assert (answer.headers["x-speaker"], answer.headers["x-transpose"]) == ("tenor", "3")
    assert unquote(answer.headers["x-warnings"]) == "[]" and answer.headers["x-warnings-count"] == "0"


@pytest.mark.parametrize("form, rate", [("WAV", 22050), ("FLAC", 16000), ("MP3", 44100), ("OGG", 48000)])
def test_any_format_comes_in_by_its_content(served, voice, tmp_path, form, rate):
    content = song(1, rate, form)
    (tmp_path / "own").write_bytes(content)
    wanted, _ = voice.convert(tmp_path / "own", speaker="alto")
    found, found_rate = soundfile.read(
        io.BytesIO(served.convert(content, "x.txt", wav_format="WAV").content), dtype="int16"
    )
    assert found_rate == 16000 and np.array_equal(found, to_int16(wanted))


def test_warnings_come_in_ascii_and_name_the_song_as_the_client_does(served):
    file = io.BytesIO()
    soundfile.write(file, silence(1, 16000), 16000, format="WAV")
    answer = served.convert(file.getvalue(), "\u30b5\u30f3\r\nX-Evil: 1.wav")
    (warning,) = json.loads(unquote(answer.headers["x-warnings"]))
    assert warning.startswith("\u30b5\u30f3") and "the song is silent" in warning and "x-evil" not in answer.headers
    assert str(served.folder) not in warning


def test_a_job_tells_its_progress_and_keeps_its_result_until_it_is_deleted(served):
    started = served.convert(song(4), route="/jobs", max_segment="2")
    assert started.status_code == 202
    job = started.json()["id"]
    assert started.headers["location"] == f"/jobs/{job}"
    with served.client.stream("GET", f"/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert told[-1] == served.client.get(f"/jobs/{job}").json()
    assert told[-1]["state"] == "done" and told[-1]["progress"] == 1 and told[-1]["seconds"] == 4
    result = served.client.get(told[-1]["result"])
    assert result.status_code == 200 and len(result.content) == told[-1]["bytes"]
    assert served.files() == [job, f"{job}/result.flac"]  # the song is gone
    assert served.client.delete(f"/jobs/{job}").json() == {"id": job, "state": "deleted"}
    assert served.client.get(f"/jobs/{job}").status_code == served.client.get(told[-1]["result"]).status_code == 404
    assert served.files() == []


def test_an_answer_in_json_links_to_the_result(served):
    answer = served.convert(song(1), response="json", transpose="auto")
    assert answer.json()["state"] == "done" and answer.json()["transpose"] == 7  # from 200 Hz to 300
    assert served.client.get(answer.json()["result"]).content[:4] == b"fLaC"
    served.client.delete(f"/jobs/{answer.json()['id']}")


def test_shares_mix_voices(served, voice, tmp_path):
    (tmp_path / "song.wav").write_bytes(song(1))
    voice.convert_file(tmp_path / "song.wav", tmp_path / "own.flac", speaker={"alto": 0.75, "tenor": 0.25})
    files = {"song": ("song.wav", song(1))}
    answer = served.client.post("/convert", files=files, data={"mix": ["alto=0.75", "tenor=0.25"]})
    assert answer.content == (tmp_path / "own.flac").read_bytes()


def test_voices_say_who_they_are_and_what_they_take(served):
    listed = served.client.get("/voices").json()["voices"]
    assert listed[0] == {"id": "fake", "rate": 16000, "speakers": ["alto", "tenor"]} and listed[1]["id"] == "other"
    about = served.client.get("/voices/fake").json()
    assert about["card"] == {"name": "fake", "licence": "CC0"}
    options = {option["name"]: option for option in about["options"]}
    assert list(options) == list(OFFERED) and {*OFFERED, *PLACES, *CURVES} == set(CONVERTED)
    assert options["noise_scale"]["default"] == 0.4 and options["noise_scale"]["maximum"] == 10
    assert options["max_segment"]["maximum"] == 30 and all(
        "SUPPRESS" not in option["about"] for option in options.values()
    )
    assert options["second_encoding"]["type"] == "boolean" and options["second_encoding"]["default"] is False
    assert served.client.get("/voices/gone").status_code == 404
    assert SECRET not in json.dumps([listed, about])


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"noise_scal": "1"}, "unknown field 'noise_scal'. Did you mean noise_scale?"),
        ({"noise_scale": "much"}, "noise_scale is 'much'; expected a number"),
        ({"noise_scale": "99"}, "-ns/--noise_scale is 99; it must lie between 0 and 10"),
        ({"noise_scale": ["1", "2"]}, "noise_scale is given 2 times"),
        ({"auto_predict_f0": "maybe"}, "auto_predict_f0 is 'maybe'; expected True or False"),
        ({"enhancer_adaptive_key": "1.5"}, "expected a whole number"),
        ({"speaker": "bass"}, "no speaker 'bass'. It has: alto, tenor"),
        ({"voice": "gone"}, "there is no voice 'gone'. There are: fake, other"),
        ({"transpose": "up"}, "transpose is 'up'; expected semitones"),
        ({"transpose": "inf"}, "-t/--trans is inf"),
        ({"wav_format": "xyz"}, "unknown output format 'xyz'"),
        ({"wav_format": "../../evil"}, "unknown output format '../../evil'"),
        ({"response": "xml"}, "response is 'xml'; expected audio or json"),
        ({"mix": "alto=1"}, "mix says who sings; leave speaker out"),
        ({"speaker": [], "mix": "alto"}, "expected NAME=SHARE"),
        ({"speaker": []}, "name the target voice"),
        ({"device": "cuda"}, "device is chosen when the server is started"),
        ({"mix_path": "/etc/passwd"}, "mix_path is chosen when the server is started"),
        ({"f0_in": "/etc/passwd"}, "f0_in names a file of the server"),
        ({"f0_out": "../x.csv"}, "f0_out names a file of the server"),
        ({"cluster_model_path": "/etc/passwd"}, "cluster_model_path is chosen when the server is started"),
        ({"max_segment": "3600"}, "this server takes at most 30 s at once"),
        ({"clip": "3600"}, "this server takes at most 30 s at once"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_422(served, fields, words):
    answer = served.convert(b"not looked at", route="/jobs" if len(words) % 2 else "/convert", **fields)
    assert answer.status_code == 422 and words in answer.json()["error"] and list(answer.json()) == ["error"]
    assert served.files() == []


def test_no_option_that_is_offered_names_a_file():
    flags = {action.dest: action for action in conversion_arguments("x", "")._actions}
    assert OFFERED and not [name for name in OFFERED if "FILE" in str(flags[name].metavar)]


def _damaged() -> dict[str, bytes]:
    whole = io.BytesIO()
    soundfile.write(whole, np.full(8000, np.nan, np.float32), 16000, format="WAV", subtype="FLOAT")
    noise = np.random.default_rng(0).bytes(3000)
    return {"empty": b"", "noise": noise, "half": song(2)[:20000], "header": song(2)[:44], "nan": whole.getvalue()}


@pytest.mark.parametrize("content", _damaged().values(), ids=_damaged())
def test_a_broken_song_is_one_line_and_status_400(served, content):
    answer = served.convert(content, "my song.wav")
    error = answer.json()["error"]
    assert answer.status_code == 400 and error.startswith("my song.wav: ") and "\n" not in error
    assert str(served.folder) not in error and "/tmp" not in error
    until(lambda: served.files() == [])


@pytest.mark.parametrize(
    "request_of, words",
    [
        ({"data": {"song": "/etc/passwd"}}, "'song' is text, and files of the server cannot be named"),
        ({"files": {"song": (None, b"/etc/passwd")}}, "'song' is text"),
        ({"files": {"speaker": (None, b"alto")}}, "no song came"),
        ({"files": {"file": ("song.wav", b"x")}}, "a file came in the field 'file'; the song goes in the field 'song'"),
        ({"files": [("song", ("a.wav", b"x")), ("song", ("b.wav", b"x"))]}, "one song at a time"),
        ({"content": b"RIFF", "headers": {"content-type": "audio/wav"}}, "expected a form"),
        ({"content": b"--x\r\n", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "the form"),
        (
            {"content": b"rubbish", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            "the form is damaged",
        ),
    ],
)
def test_a_form_without_a_song_is_told_what_to_send(served, request_of, words):
    answer = served.client.post("/convert", **request_of)
    assert answer.status_code in (400, 415) and words in answer.json()["error"]
    assert served.files() == []


@pytest.mark.parametrize(
    "name",
    ["../../evil.wav", "/evil.wav", "..", "", "a\0b.wav", "C:\\evil.wav", "\\\\host\\share\\e.wav", "CON", "a" * 400],
)
def test_a_name_is_never_a_path(served, name):
    home = served.folder.parent
    before = sorted(path.name for path in home.iterdir())
    body = (
        b'--x\r\nContent-Disposition: form-data; name="speaker"\r\n\r\nalto\r\n--x\r\nContent-Disposition: form-data; '
    )
    body += b'name="song"; filename="' + name.encode() + b'"\r\n\r\n' + song(0.2) + b"\r\n--x--\r\n"
    answer = served.client.post("/convert", content=body, headers={"content-type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 200
    shown = unquote(answer.headers["content-disposition"])
    assert not re.search(r"[/\\\0]", shown.partition("''")[2] or shown.partition('filename="')[2])
    assert sorted(path.name for path in home.iterdir()) == before and not Path("/evil.wav").exists()
    until(lambda: served.files() == [])


def test_paths_of_jobs_lead_to_no_file(served):
    (served.folder / "secret.txt").write_text("SECRET")
    for path in (
        "/jobs/..%2fsecret.txt/result",
        "/jobs/secret.txt",
        "/../secret.txt",
        "/page.js/../secret.txt",
        "/static/x",
    ):
        answer = served.client.get(path)
        assert answer.status_code == 404 and "SECRET" not in answer.text
    (served.folder / "secret.txt").unlink()


def test_a_song_that_is_too_large_or_too_long_is_not_taken(served):
    large = np.random.default_rng(0).bytes(1_200_000)
    assert served.convert(large).status_code == 413
    body = b'--x\r\nContent-Disposition: form-data; name="song"; filename="a"\r\n\r\n' + large + large + large
    head = {"content-type": "multipart/form-data; boundary=x"}
    unannounced = served.client.post(
        "/convert", content=(body[at : at + 65536] for at in range(0, len(body), 65536)), headers=head
    )
    assert unannounced.status_code == 413 and "1 MB" in unannounced.json()["error"]
    for form in ("FLAC", "WAV"):  # one is measured by decoding it, the other by its header
        file = io.BytesIO()
        soundfile.write(file, np.zeros(61 * 4000, np.int16), 4000, format=form, subtype="PCM_16")
        answer = served.convert(file.getvalue())
        assert answer.status_code == 413 and "60 s" in answer.json()["error"]
    assert served.files() == []


def test_the_page_loads_nothing_from_elsewhere_and_lists_all_routes(served):
    page, script = served.client.get("/"), served.client.get("/page.js")
    assert (
        page.headers["content-type"].startswith("text/html")
        and "script-src 'self'" in page.headers["content-security-policy"]
    )
    assert "://" not in page.text + script.text
    schema = served.client.get("/openapi.json").json()
    form = schema["paths"]["/convert"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert {"song", "voice", "speaker", "mix", "transpose", *OFFERED} <= set(form["properties"]) and form[
        "required"
    ] == ["song"]
    assert {"/health", "/metrics", "/voices", "/jobs/{key}/events", "/voiceChangeModel", "/wav2wav"} <= set(
        schema["paths"]
    )


def test_an_unknown_address_and_a_wrong_method_are_answered_in_json(served):
    assert served.client.get("/docs").json() == {"error": "no such address; / lists all"}
    assert served.client.put("/convert").status_code == 405 and "error" in served.client.put("/convert").json()


def test_metrics_count_what_was_done(tmp_path):
    with serving(tmp_path) as running:
        running.convert(song(2))
        running.convert(b"")
        lines = running.client.get("/metrics").text.splitlines()
    assert 'voice_server_requests_total{route="/convert",status="200"} 1' in lines
    assert 'voice_server_requests_total{route="/convert",status="400"} 1' in lines
    assert 'voice_server_conversions_total{result="done"} 1' in lines
    assert 'voice_server_conversions_total{result="refused"} 1' in lines
    assert "voice_server_converted_seconds_total 2" in lines and "voice_server_queue_length 0" in lines
    factor = next(float(line.split()[1]) for line in lines if line.startswith("voice_server_realtime_factor "))
    assert 0 < factor < 5


# --- so-vits-svc's two servers


def _block(rate: int = 44100, seconds: float = 0.6) -> bytes:
    return song(seconds, rate)


def test_a_block_of_the_vst_comes_back_as_long_as_it_was_at_the_rate_it_asks_for(served, voice):
    """Field for field what the plug-in sends: numbers as floats, the sound as `sample`."""
    fields = {"fPitchChange": "2.000000", "sampleRate": "48000.000000", "sSpeakId": "1.000000"}
    files = {"sample": ("sample.wav", _block(48000), "audio/x-wav")}
    answer = served.client.post("/voiceChangeModel", data=fields, files=files)
    assert answer.status_code == 200 and answer.headers["content-disposition"] == 'attachment; filename="temp.wav"'
    wav, rate = soundfile.read(io.BytesIO(answer.content))
    assert rate == 48000 and len(wav) == 28800 and answer.headers["x-speaker"] == "tenor"
    assert answer.headers["x-transpose"] == "2" and 0.1 < np.abs(wav[2000:-2000]).mean() < 0.6
    plain = served.client.post("/voiceChangeModel", files={"sample": ("a", _block())})
    assert soundfile.info(io.BytesIO(plain.content)).samplerate == 44100 and plain.headers["x-speaker"] == "alto"


@pytest.mark.parametrize("n_samples", [1, 441, 44100])
def test_a_silent_or_tiny_block_comes_back_as_long_as_it_was(served, n_samples):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(n_samples), 44100, format="WAV")
    answer = served.client.post("/voiceChangeModel", files={"sample": ("a", file.getvalue())})
    assert answer.status_code == 200 and not soundfile.read(io.BytesIO(answer.content))[0].any()
    assert soundfile.info(io.BytesIO(answer.content)).frames == n_samples


def test_a_whole_song_of_the_other_server_is_sent_and_not_named(served, voice, tmp_path):
    (tmp_path / "x").write_bytes(song(2))
    wanted, _ = voice.convert(tmp_path / "x", speaker="tenor", transpose=-3)
    fields = {"tran": "-3.0", "spk": "tenor", "wav_format": "wav"}
    answer = served.client.post("/wav2wav", data=fields, files={"audio_path": ("x.wav", song(2))})
    assert answer.headers["content-disposition"] == 'attachment; filename="temp.wav"'
    assert np.array_equal(soundfile.read(io.BytesIO(answer.content), dtype="int16")[0], to_int16(wanted))
    first = served.client.post("/wav2wav", files={"audio": ("x.wav", song(1))})
    assert first.headers["x-speaker"] == "alto" and first.content[:4] == b"RIFF"
    old = served.client.post("/wav2wav", data={"audio_path": "/etc/passwd", "tran": "0", "spk": "alto"})
    assert old.status_code == 400 and "curl -F audio_path=@song.wav" in old.json()["error"]


@pytest.mark.parametrize(
    "route, fields, words",
    [
        ("/voiceChangeModel", {"sSpeakId": "9"}, "no speaker 9. It has: 0 (alto), 1 (tenor)"),
        ("/voiceChangeModel", {"sampleRate": "1"}, "sampleRate is 1; expected 8000 to 384000 Hz"),
        ("/voiceChangeModel", {"fPitchChange": "up"}, "fPitchChange is 'up'; expected a number"),
        ("/voiceChangeModel", {"sSpeakId": "inf"}, "sSpeakId is 'inf'"),
        ("/voiceChangeModel", {"slice_db": "-30"}, "unknown field 'slice_db'"),
        ("/wav2wav", {"spk": "bass"}, "no speaker 'bass'"),
        ("/wav2wav", {"tran": "nan"}, "tran is 'nan'"),
        ("/wav2wav", {"wav_format": "../x"}, "unknown output format"),
    ],
)
def test_mistakes_of_old_clients_are_told(served, route, fields, words):
    answer = served.client.post(route, data=fields, files={"sample": ("a.wav", _block())})
    assert answer.status_code == 422 and words in answer.json()["error"] and served.files() == []


def test_the_stand_in_really_converts(voice):
    """Else equal answers would say nothing."""
    assert 0.1 < np.abs(voice.convert(sung(1, 16000), 16000, speaker="alto")[0]).mean() < 0.7
