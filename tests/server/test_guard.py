"""Who may speak to the server."""

import pytest
from server.served import serving, song

TOKEN = "a-token-of-thirty-two-letters-00"


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("local")) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("guarded"), token=TOKEN) as running:
        yield running


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": "[::1"},
        {"Host": ""},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_without_a_token_no_page_of_another_site_gets_through(local, headers):
    for method, path in (("POST", "/convert"), ("GET", "/voices"), ("GET", "/"), ("POST", "/voiceChangeModel")):
        answer = local.client.request(method, path, headers=headers, files={"song": ("a.wav", b"x")})
        assert answer.status_code in (400, 403), path
        assert "access-control-allow-origin" not in answer.headers
    assert local.files() == []


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8000", "127.0.0.9"])
def test_this_machine_may_be_called_by_each_of_its_names(local, host):
    assert local.client.get("/voices", headers={"Host": host}).status_code == 200
    assert local.client.get("/voices", headers={"Host": host, "Origin": f"http://{host}"}).status_code == 200


def test_no_other_site_may_read_an_answer(local):
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = local.client.options("/convert", headers=asked)
    assert answer.status_code == 403 and not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", "Bearer ü"]
)
def test_without_the_token_there_is_nothing(guarded, value):
    headers = {} if value is None else {"Authorization": value.encode("utf-8")}
    for method, path in (
        ("GET", "/voices"),
        ("GET", "/metrics"),
        ("GET", "/jobs/x"),
        ("POST", "/convert"),
        ("GET", "/x"),
    ):
        answer = guarded.client.request(method, path, headers=headers)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer", path
        assert "fake" not in answer.text
    assert guarded.client.get("/health", headers=headers).json() == {"status": "ok", "queue_length": 0, "in_work": 0}


def test_with_the_token_any_name_of_the_host_works_but_no_other_site(guarded):
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "voices.example"}
    assert guarded.client.get("/voices", headers=headers).status_code == 200
    headers["Origin"] = "http://evil.example"
    assert guarded.client.get("/voices", headers=headers).status_code == 403


def test_a_stranger_is_answered_before_the_song_is_kept(guarded):
    answer = guarded.convert(song(20))
    assert answer.status_code == 401 and guarded.files() == []


def test_every_answer_carries_the_policy(local):
    for path in ("/", "/voices", "/nothing"):
        headers = local.client.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert headers["x-content-type-options"] == "nosniff" and "server" not in headers
