"""serve.py: what it refuses before it loads anything, the voices it makes, and a page whose examples work."""

import argparse
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import soundfile
from server.served import fake_voice, serving, song

import assemble
import serve
from modules.errors import UsageError
from modules.inference.arguments import conversion_arguments
from modules.listening import bind
from modules.server import listen
from modules.server.limits import Limits

PAGE = (Path(__file__).resolve().parent.parent / "docs/server.md").read_text("utf-8")
TOKEN = "sixteen-letters!"


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--host 0.0.0.0", "--host 0.0.0.0 lets others in: give --token as well, or set SERVE_TOKEN"),
        ("--host ::", "lets others in"),
        ("--host studio.local", "lets others in"),
        ("--token short", "--token: expected 16 or more"),
        ("--max_mb 0", "--max_mb is 0; expected more than 0"),
        ("--max_seconds nan --grace -1", "--max_seconds is nan; expected more than 0; --grace is -1"),
        ("-d abacus", "-d/--device 'abacus'"),
        ("-f0p nope", "unknown f0 predictor 'nope'"),
        ("-m gone.pth", "-m/--model_path gone.pth: no such file"),
        ("-m a/G_1.pth b/G_1.pth -c one.json", "-c names 1 configs for 2 models"),
        ("-m a/G_1.pth a/G_1.pth", "several models would be called a-G_1"),
    ],
)
def test_a_wrong_start_is_one_line(flags, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(serve.TOKEN_VARIABLE, raising=False)
    with pytest.raises(Exception) as error:
        serve.main(flags.split())
    assert words in str(error.value) and "\n" not in str(error.value)


def test_missing_packages_are_named_with_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serve, "PACKAGES", ("fastapi", "no_such_package"))
    with pytest.raises(
        UsageError, match=r"needs no_such_package\. Install it with: pip install -r requirements-server\.txt"
    ):
        serve.main([])


def test_a_port_that_is_taken_is_refused():
    with bind("127.0.0.1", 0) as taken, pytest.raises(UsageError, match="Choose another with --port"):
        bind("127.0.0.1", taken.getsockname()[1])
    for port, host in ((70000, "127.0.0.1"), (0, "256.1.1.1")):
        with pytest.raises(UsageError):
            bind(host, port)


@pytest.mark.parametrize(
    "models, names",
    [
        (["logs/alto/G_8000.pth"], ["alto"]),
        (["voices/bass.onnx", "logs/alto/G_1.pth"], ["bass", "alto"]),
        (["logs/alto/G_1.pth", "logs/alto/G_2.pth"], ["alto-G_1", "alto-G_2"]),
        (["a/x.onnx", "b/x.onnx"], ["a-x", "b-x"]),
        ([None], ["44k"]),
    ],
)
def test_a_voice_goes_by_its_folder_or_file(models, names):
    assert list(serve.name_voices(models, None)) == names
    assert [model for model, _ in serve.name_voices(models, None).values()] == models


def test_it_has_the_flags_that_say_what_is_loaded_and_how_it_sings():
    ours = {flag.dest: flag for flag in serve.make_arguments()._actions if flag.help != argparse.SUPPRESS}
    for action in conversion_arguments("x", "")._actions:
        if action.dest in serve.VOICE_FLAGS and action.help != argparse.SUPPRESS:
            assert ours[action.dest].option_strings == action.option_strings
            assert ours[action.dest].default == action.default
    assert {name: ours[name].default for name in vars(Limits())} == vars(Limits())


def test_each_model_becomes_a_voice_that_sings_as_the_flags_say(tmp_path, monkeypatch):
    loaded, served = [], []
    monkeypatch.setattr(assemble, "load_voice", lambda model, **options: loaded.append((model, options)) or model)
    monkeypatch.setattr(listen, "serve", lambda *arguments: served.append(arguments))
    monkeypatch.setattr(serve, "read_models", lambda args, problems: (None, None, None))
    monkeypatch.setenv(serve.TOKEN_VARIABLE, TOKEN)
    flags = [
        "-m",
        "a/G_1.pth",
        "b/G_2.pth",
        "-c",
        "1.json",
        "2.json",
        "-fmp",
        "-ns",
        "0.1",
        "--port",
        "0",
        "--queue",
        "3",
    ]
    assert serve.main(flags) == 0
    assert [(model, options["config_path"]) for model, options in loaded] == [
        ("a/G_1.pth", "1.json"),
        ("b/G_2.pth", "2.json"),
    ]
    assert {(options["f0_predictor"], options["noise_scale"]) for _, options in loaded} == {("crepe", 0.1)}
    ((voices, _, token, limits),) = served
    assert voices == {"a": "a/G_1.pth", "b": "b/G_2.pth"} and token == TOKEN and limits == Limits(queue=3)


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt])
def test_nothing_stays_when_the_server_has_ended(monkeypatch, ending):
    folders = []

    def run(server, sockets) -> None:
        folders.append(server.queue.reserve().folder.parent)
        (folders[0] / "result.wav").touch()
        if ending is not None:
            raise ending

    monkeypatch.setattr(listen.Server, "run", run)
    try:
        with bind("127.0.0.1", 0) as listener:
            listen.serve({"fake": fake_voice()}, listener, None, Limits())
    except KeyboardInterrupt:
        assert ending is KeyboardInterrupt
    assert len(folders) == 1 and not folders[0].exists()


def test_the_examples_of_the_page_work(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("song.wav", "block.wav"):
        Path(name).write_bytes(song(1))
    lines = [
        line
        for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    with serving(tmp_path / "files") as running:
        for line in lines if shutil.which("curl") else ():
            command = shlex.split(line.replace("http://127.0.0.1:8000", running.url))
            done = subprocess.run([*command, "-sS", "--fail"], capture_output=True, timeout=30)
            assert done.returncode == 0, (line, done.stderr)
            if "-o" in command:
                assert soundfile.info(command[command.index("-o") + 1]).frames >= 16000
        exec(compile(program.replace("http://127.0.0.1:8000", running.url), "server.md", "exec"), {})
    assert len(lines) == 5 and "done: 100%" in capsys.readouterr().out
    assert soundfile.info("song_alto.flac").frames == 16000


def test_the_page_tells_the_limits_as_they_are():
    told = dict(re.findall(r"`--(\w+) (\d+)`", PAGE))
    assert {name: float(text) for name, text in told.items() if name in vars(Limits())} == vars(Limits())
    routes = set(re.findall(r"`(?:GET|POST|DELETE) (/[\w/.]*)", PAGE))
    assert {"/", "/health", "/metrics", "/voices", "/convert", "/jobs", "/voiceChangeModel", "/wav2wav"} <= routes
