"""What ends a conversion early, and the server: a full queue, a client that hangs up, a time limit, an orderly stop."""

import socket
import threading

import numpy as np
import pytest
from server.served import fake_voice, serving, song, until

from modules.server import app

LONG = song(12)  # six chunks with max_segment=2


@pytest.fixture
def held(tmp_path):
    """A server whose voice waits in its first chunk; one song may wait behind it."""
    with serving(tmp_path / "files", voice=fake_voice(max_segment=2.0), queue=1) as running:
        running.voice.held.may_go.clear()
        yield running


def _n_chunks(running) -> int:
    return len(running.voice.held.seen)


def test_a_full_queue_says_when_to_come_again(held):
    first = held.background(song(1))
    until(lambda: held.gauges["in_work"])
    second = held.background(song(1))
    until(lambda: held.gauges["queue_length"] == 1)
    for route in ("/convert", "/jobs"):
        third = held.convert(song(1), route=route)
        assert third.status_code == 503 and int(third.headers["retry-after"]) > 0
        assert "1 songs are waiting" in third.json()["error"]
    held.voice.held.may_go.set()
    assert first.answer.status_code == second.answer.status_code == 200
    assert held.convert(song(1)).status_code == 200


def test_a_client_that_hangs_up_stops_its_conversion(held):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="speaker"\r\n\r\nalto\r\n--x\r\nContent-Disposition: form-data; '
    )
    body += b'name="song"; filename="a.wav"\r\n\r\n' + LONG + b"\r\n--x--\r\n"
    head = "POST /convert HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    with socket.create_connection(held.listener.getsockname()) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert held.voice.held.entered.wait(20)
        (job,) = held.server.queue._jobs.values()
    until(job.done.done)
    held.voice.held.may_go.set()
    until(lambda: not held.gauges["in_work"])
    until(lambda: held.files() == [])
    assert job.state == "cancelled" and _n_chunks(held) <= 2
    assert held.convert(song(1)).status_code == 200


def test_a_client_that_hangs_up_in_the_middle_of_its_song_leaves_nothing(held):
    head = "POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="song"; filename="a.wav"\r\n\r\n' + LONG[:1000]
    with socket.create_connection(held.listener.getsockname()) as client:
        client.sendall(f"{head}Content-Length: 999999\r\n\r\n".encode() + part)
        until(lambda: any(name.endswith("/song") for name in held.files()))
    until(lambda: held.files() == [] and not held.gauges["queue_length"])


def test_a_cancelled_job_leaves_the_networks_after_its_chunk(held):
    job = held.convert(LONG, route="/jobs").json()["id"]
    assert held.voice.held.entered.wait(20)
    waiting = held.convert(LONG, route="/jobs").json()["id"]
    for one in (waiting, job):
        assert held.client.delete(f"/jobs/{one}").json()["state"] == "cancelled"
        assert held.client.get(f"/jobs/{one}/result").status_code == 410
    held.voice.held.may_go.set()
    until(lambda: held.files() == [] and not held.gauges["in_work"])
    assert _n_chunks(held) <= 2
    assert held.client.get(f"/jobs/{job}").json()["error"] == "the job was cancelled"


def test_what_takes_too_long_is_ended_between_two_chunks(tmp_path):
    now = [0.0]
    with serving(tmp_path / "files", voice=fake_voice(max_segment=2.0), time_limit=60) as running:
        running.server.queue._clock = lambda: now[0]
        running.voice.held.may_go.clear()
        client = running.background(LONG)
        assert running.voice.held.entered.wait(20)
        now[0] = 61.0
        running.voice.held.may_go.set()
        assert client.answer.status_code == 504 and "more than 60 s" in client.answer.json()["error"]
        assert _n_chunks(running) <= 2
        assert running.convert(song(0.2)).status_code == 200
        until(lambda: running.files() == [])


def test_the_server_itself_deletes_old_results(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "_SWEEP_SECONDS", 0.02)
    with serving(tmp_path / "files", keep_minutes=0.001) as running:
        job = running.convert(song(0.2), response="json").json()["id"]
        until(lambda: running.client.get(f"/jobs/{job}").status_code == 404 and running.files() == [])


def test_a_song_must_arrive_in_time(tmp_path):
    with serving(tmp_path / "files", time_limit=0.2) as running:
        with socket.create_connection(running.listener.getsockname()) as client:
            head = "POST /convert HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            client.sendall(f"{head}Content-Length: 999\r\n\r\n--x\r\n".encode())
            client.settimeout(20)
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        until(lambda: running.files() == [] and not running.gauges["queue_length"])


def test_a_failure_of_the_networks_is_the_servers_and_the_next_song_works(tmp_path):
    with serving(tmp_path / "files") as running:
        running.voice.held.fails_at_call = 1
        answer = running.convert(song(1))
        assert answer.status_code == 500 and "not enough memory" in answer.json()["error"]
        assert str(running.folder) not in answer.text
        assert running.convert(song(1)).status_code == 200


def test_told_to_stop_it_ends_the_song_in_work_and_refuses_the_others(held):
    first = held.background(song(1))
    until(lambda: held.gauges["in_work"])
    second = held.background(song(1))
    until(lambda: held.gauges["queue_length"] == 1)
    held.server.should_exit = True
    assert second.answer.status_code == 503 and "being stopped" in second.answer.json()["error"]
    with pytest.raises(ConnectionError):
        socket.create_connection(held.listener.getsockname() if held.listener.fileno() >= 0 else _port_of(held))
    held.voice.held.may_go.set()
    assert first.answer.status_code == 200 and first.answer.content[:4] == b"fLaC"
    held.thread.join(20)
    assert not held.thread.is_alive()


def _port_of(running) -> tuple[str, int]:
    return "127.0.0.1", int(running.url.rpartition(":")[2])


def test_after_the_grace_period_the_song_in_work_is_told_so(tmp_path):
    with serving(tmp_path / "files", voice=fake_voice(max_segment=2.0), grace=0.2) as running:
        running.voice.held.may_go.clear()
        client = running.background(LONG)
        until(lambda: running.gauges["in_work"])
        running.server.should_exit = True
        assert client.answer.status_code == 503 and int(client.answer.headers["retry-after"]) > 0
        running.thread.join(20)
        assert not running.thread.is_alive()
        running.voice.held.may_go.set()
        assert running.server.queue.close(20)
        assert running.files() == [] and _n_chunks(running) <= 2


def test_sixteen_clients_of_all_kinds_get_what_is_right_and_leave_nothing(tmp_path):
    """A third of them send rubbish or hang up; every other answer is byte for byte the voice's own."""
    songs = {seconds: song(seconds, seed=int(seconds * 10)) for seconds in (0.3, 1.0, 3.0)}
    wanted, own = {}, fake_voice(max_segment=2.0)
    for seconds, content in songs.items():
        (tmp_path / "song.wav").write_bytes(content)
        own.convert_file(tmp_path / "song.wav", tmp_path / "own.flac", speaker="alto", overwrite=True)
        wanted[seconds] = (tmp_path / "own.flac").read_bytes()
    outcomes, n_threads = [], []

    def client(number: int, running) -> None:
        draws = np.random.default_rng(number)
        for _ in range(2):
            n_threads.append(threading.active_count())
            seconds, kind = draws.choice(list(songs)), draws.integers(6)
            content = songs[seconds]
            if kind == 0:
                outcomes.append(running.convert(draws.bytes(2000)).status_code == 400)
            elif kind == 1:
                with socket.create_connection(_port_of(running)) as rude:
                    head = (
                        "POST /convert HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
                    )
                    start = b'--x\r\nContent-Disposition: form-data; name="song"; filename="a"\r\n\r\n'
                    rude.sendall(f"{head}Content-Length: 99999\r\n\r\n".encode() + start + content[:3000])
            else:
                outcomes.append(running.convert(content).content == wanted[seconds])

    with serving(tmp_path / "files", voice=fake_voice(max_segment=2.0), queue=64) as running:
        clients = [threading.Thread(target=client, args=(number, running)) for number in range(16)]
        for thread in clients:
            thread.start()
        for thread in clients:
            thread.join(60)
        assert len(outcomes) >= 20 and all(outcomes)
        assert running.client.get("/health").json() == {"status": "ok", "queue_length": 0, "in_work": 0}
        until(lambda: running.files() == [])
        assert max(n_threads) <= min(n_threads) + 16 + 40  # clients, and the pools of asyncio and anyio
        assert not running.server.queue._jobs
