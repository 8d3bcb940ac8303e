"""The server of the page, attacked: who may speak to it, what can be read, what leaves the machine, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import httpx
import pytest

import webUI
from modules.errors import UsageError
from modules.webui import jobs
from modules.webui import server as page_server

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "correct horse battery"
EVIL = "<img src=x onerror=window.hacked=1>.wav"
# A script that works until it is told to stop, and saves then.
LONG_WORK = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from modules.cli import run

def main(argv=None):
    print("at work", flush=True)
    try:
        while True:
            time.sleep(0.1)
    except KeyboardInterrupt:
        print("saved", flush=True)
        raise

run(main)
"""


# Calls this machine, which works, and others, which does not.
CALLS = """
import socket
from modules.webui import server
server.forbid_network("127.0.0.1")
own = socket.create_server(("127.0.0.1", 0))
socket.create_connection(own.getsockname()).close()
for call in (
    lambda: socket.create_connection(("198.51.100.7", 80), 1),
    lambda: socket.getaddrinfo("huggingface.co", 443),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("198.51.100.7", 53)),
):
    try:
        call()
    except PermissionError as error:
        assert "no other machine" in str(error)
    else:
        raise AssertionError
"""


class Recorder:
    """A proxy at which nobody should call."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(2)
                self.calls.append(connection.recv(200))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(scope="module")
def recorder():
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, start_server, recorder):
    """A server behind a proxy that records, with secrets in its workspace; it takes uploads of 1 MB."""
    workspace = tmp_path_factory.mktemp("server")
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.wav").write_text("SECRET")
    for place in (".git/config", "raw/song.wav", "logs/44k/G_1.pth", ".env"):
        (workspace / place).parent.mkdir(parents=True, exist_ok=True)
        (workspace / place).write_text("SECRET")
    (workspace / "raw" / "link").symlink_to(outside)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), recorder.url)
    with start_server(workspace, "--max_upload", "1", NO_PROXY="", no_proxy="", **proxies) as started:
        yield started


@pytest.fixture(scope="module")
def client(server):
    """A program that speaks to it directly."""
    with httpx.Client(base_url=server.url, timeout=30, trust_env=False) as client:
        yield client


def _uploads(server) -> list[Path]:
    return [path for path in (server.workspace / ".webui" / "uploads").rglob("*") if path.is_file()]


def _upload(client: httpx.Client, name: str, content: bytes = b"x", **headers: str) -> httpx.Response:
    return client.post("/gradio_api/upload", files={"files": (name, content)}, headers=headers)


def _send(client: httpx.Client, elem_id: str, *values: object) -> dict:
    """What the page's handler of a component answers, asked as the page does."""
    config = client.get("/config").json()
    number = next(part["id"] for part in config["components"] if part["props"].get("elem_id") == elem_id)
    handler = next(one["id"] for one in config["dependencies"] if number in [target[0] for target in one["targets"]])
    session = uuid.uuid4().hex
    body = {"data": values, "fn_index": handler, "session_hash": session}
    client.post("/gradio_api/queue/join", json=body).raise_for_status()
    with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as answer:
        events = (json.loads(line[5:]) for line in answer.iter_lines() if line.startswith("data:"))
        return next(event for event in events if event["msg"] == "process_completed")


# --- start


def _start(workspace: Path, *flags: str, code: str = "import webUI; webUI.run(webUI.main)") -> tuple[int, str]:
    """Exit code and words of a start that is refused."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}", *flags]
    environment = {name: text for name, text in os.environ.items() if name != webUI.PASSWORD_VARIABLE}
    done = subprocess.run(command, cwd=workspace, capture_output=True, text=True, timeout=60, env=environment)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--listen"], "--auth"),
        (["--listen", "192.168.1.1"], "--auth"),
        (["--listen", "--auth", "singer"], "USER:PASSWORD"),
        (["--port", "70000"], "1 to 65535"),
        (["--max_upload", "0"], "1 or more MB"),
        ([], "pip install -r requirements-webui.txt"),
    ],
)
def test_a_wrong_start_is_refused_before_gradio_is_looked_for(tmp_path, flags, words):
    code, text = _start(tmp_path, *flags, code="sys.modules['gradio'] = None; import webUI; webUI.run(webUI.main)")
    assert code == 2
    assert text.startswith("error: ") and text.count("\n") == 1 and words in text
    assert not list(tmp_path.iterdir())


def test_a_second_server_is_refused(server, tmp_path):
    port = server.url.rpartition(":")[2]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = str(probe.getsockname()[1])
    for workspace, flags, words in (
        (tmp_path, ["--port", port], "Choose another with --port"),
        (server.workspace, ["--port", free], "another process"),
        (tmp_path, ["--listen", "256.1.1.1", "--auth", f"singer:{PASSWORD}"], "256.1.1.1"),
    ):
        code, text = _start(workspace, *flags)
        assert code == 2
        assert text.startswith("error: ") and text.count("\n") == 1 and words in text


@pytest.mark.parametrize("login", ["singer", "singer:", ":password", "singer:short", ":"])
def test_a_login_without_name_or_with_a_short_password_is_refused(login):
    with pytest.raises(UsageError, match="USER:PASSWORD"):
        webUI.parse_login(login)


def test_a_password_may_hold_colons():
    assert webUI.parse_login("singer:pass:word") == ("singer", "pass:word")
    assert webUI.parse_login(None) is None
    assert webUI.parse_login("") is None


# --- other sites and other machines


def test_only_pages_of_this_server_may_speak_to_it(server, client):
    assert client.get("/config", headers={"host": "evil.example"}).status_code == 400
    foreign = (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},  # a page of another server on this machine
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},  # a form that the user was led to send
    )
    for headers in foreign:
        assert _upload(client, "evil.wav", **headers).status_code == 403
        assert client.post("/gradio_api/queue/join", json={}, headers=headers).status_code == 403
    assert not any(path.name == "evil.wav" for path in _uploads(server))
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200
    assert _upload(client, "own.wav", Origin=server.url).status_code == 200


@pytest.mark.parametrize(
    "headers, is_foreign",
    [
        ({}, False),  # a program
        ({"sec-fetch-site": "same-origin", "origin": "https://proxy.example", "host": "127.0.0.1:7860"}, False),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:7860", "host": "127.0.0.1:7860"}, True),
        ({"origin": "http://studio.local:7860", "host": "studio.local:7860"}, False),
        ({"origin": "http://studio.local:8000", "host": "studio.local:7860"}, True),
    ],
)
def test_the_browser_says_where_a_request_comes_from(headers, is_foreign):
    assert page_server.is_of_another_site("POST", headers) is is_foreign


def test_every_answer_carries_the_policy(client):
    for path in ("/", "/config", "/theme.css", "/gradio_api/file=/etc/passwd", "/no/such/page"):
        policy = client.get(path).headers["content-security-policy"]
        assert policy.startswith("default-src 'self';") and "http" not in policy
    refused = client.post("/gradio_api/upload", headers={"Origin": "http://evil.example"})
    assert refused.headers["content-security-policy"] == policy
    assert client.get("/", headers={"host": "evil.example"}).headers["content-security-policy"] == policy


# --- files


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "//etc/passwd",
        "file:///etc/passwd",
        "/proc/self/environ",
        "{workspace}/.env",
        "{workspace}/.git/config",
        "{workspace}/.webui/.lock",
        "{workspace}/.webui/uploads/../.lock",
        "{workspace}/raw/link/secret.wav",
        "{workspace}/raw/song.wav",
        "{workspace}/logs/44k/G_1.pth",
        "{workspace}/server.log",
        "raw/song.wav",
        "raw/link/secret.wav",
    ],
)
def test_no_file_is_served_by_its_path(server, client, path):
    for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/static/", "/assets/"):
        answer = client.get(route + path.format(workspace=server.workspace))
        assert answer.status_code in (400, 403, 404), route


def test_a_file_that_was_not_uploaded_is_refused(server, client, recorder):
    for path in (
        "/etc/passwd",
        "../../etc/passwd",
        str(server.workspace / "raw" / "song.wav"),
        str(server.workspace / ".webui" / ".lock"),
        "http://198.51.100.7/song.wav",  # an address that nobody has
        f"{recorder.url}/song.wav",
    ):
        for more in ({}, {"url": path}):
            file = {"path": path, "orig_name": "a.wav", "meta": {"_type": "gradio.FileData"}, **more}
            assert not _send(client, "compare-upload", [file], None, None)["success"], path
    assert sorted(path.name for path in (server.workspace / "raw").iterdir()) == ["link", "song.wav"]


@pytest.mark.parametrize("name", ["../../evil.wav", "..", "a" * 300 + ".wav", "a\0b.wav", "/evil.wav", "x/../../y.wav"])
def test_an_upload_stays_in_its_folder_whatever_its_name(server, client, name):
    before = sorted(server.workspace.rglob("*.wav"))
    answer = _upload(client, name)
    assert answer.status_code in (200, 400)
    home = server.workspace / ".webui" / "uploads"
    if answer.status_code == 200:
        assert home in Path(answer.json()[0]).resolve().parents
    assert [path for path in sorted(server.workspace.rglob("*.wav")) if home not in path.parents] == [
        path for path in before if home not in path.parents
    ]
    assert not (server.workspace.parent / "evil.wav").exists() and not Path("/evil.wav").exists()


def test_an_upload_that_is_too_large_leaves_nothing(server, client):
    before = _uploads(server)
    assert _upload(client, "large.wav", bytes(2_000_000)).status_code == 413
    assert _uploads(server) == before


def test_markup_in_a_name_is_only_text(server, open_page):
    page = open_page(server.url)
    page.get_by_role("tab", name="Tools").click()
    page.get_by_role("tab", name="Compare", exact=True).click()
    with page.expect_file_chooser() as chooser:
        page.locator("#compare-upload").click()
    chooser.value.set_files({"name": EVIL, "mimeType": "audio/wav", "buffer": b"no audio"})
    page.get_by_role("alert").or_(page.locator(".toast-body")).first.wait_for()
    page.get_by_role("tab", name="Inspect", exact=True).click()
    page.locator("#inspect-paths input").fill(EVIL)
    page.locator("#inspect-paths input").press("Enter")
    page.locator("#inspect-run").click()
    page.locator(".toast-body", has_text="onerror=").first.wait_for()
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0


def test_nothing_called_another_machine(server, client, recorder):
    """Runs after all that was done to this server, whose proxies record."""
    for address in ("http://198.51.100.7/", "https://huggingface.co/", recorder.url):
        for route in ("file=", "file/", "proxy="):
            assert client.get(f"/gradio_api/{route}{address}").status_code in (400, 403, 404)
    assert recorder.calls == []


def test_a_process_can_be_kept_from_other_machines(tmp_path):
    """In a process of its own, since nothing takes the look at its connections away again."""
    assert _start(tmp_path, code=CALLS) == (0, "")


# --- with a password


def test_without_the_password_there_is_nothing(tmp_path, start_server):
    for name in ("trained/secret_voice/G_0.pth", "dataset_raw/secret_singer/take.wav", "raw/secret_song.wav"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with start_server(tmp_path, "--auth", f"singer:{PASSWORD}") as server, httpx.Client(base_url=server.url) as client:
        page = client.get("/").text
        assert '"auth_required":true' in page and '"components":[]' in page and '"dependencies":[]' in page
        assert "secret_" not in page
        for path in (
            "config",
            "gradio_api/info",
            "gradio_api/file=/etc/passwd",
            "gradio_api/queue/data?session_hash=a",
        ):
            assert client.get(f"/{path}").status_code == 401, path
        for path in ("queue/join", "call/inspect", "call/v2/inspect", "run/inspect", "api/inspect", "component_server"):
            body = {"data": [["raw"]], "fn_index": 0, "session_hash": "a"}
            assert client.post(f"/gradio_api/{path}", json=body).status_code == 401, path
        assert _upload(client, "evil.wav").status_code == 401
        assert not _uploads(server)
        for name, password in (("singer", "wrong password"), ("singer", ""), ("other", PASSWORD), ("", "")):
            answer = client.post("/login", data={"username": name, "password": password})
            assert answer.status_code in (400, 422) and not answer.cookies
        assert client.post("/login", data={"username": "singer", "password": PASSWORD}).status_code == 200
        assert "dependencies" in client.get("/config").text
        assert _upload(client, "song.wav").status_code == 200
        assert _upload(client, "evil.wav", Origin="http://evil.example").status_code == 403


# --- the end


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_job_outlives_a_killed_server_and_is_saved_by_one_that_ends(tmp_path, start_server, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "long_work.py"
    script.write_text(LONG_WORK)
    with start_server(tmp_path) as server:
        job = jobs.start("train", [jobs.Stage("work", (str(script),))])
        server.kill()
    assert job.status == "running"
    with start_server(tmp_path) as server, httpx.stream("GET", f"{server.url}/gradio_api/heartbeat/a", timeout=60):
        while f"open {server.url}" not in server.log():
            time.sleep(0.05)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 128 + signal.SIGTERM
        assert time.monotonic() - begin < 20
    assert job.status == "stopped" and "saved" in job.log()
    said = server.log()
    assert said.count(f"open {server.url}") == 1 and "Traceback" not in said
    assert f"stopping the job {job.name}" in said


def test_ctrl_c_ends_the_server(server):
    """The last test: it ends the server that the others share."""
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(30) == 130
    assert server.log().splitlines()[-1] == "interrupted"
