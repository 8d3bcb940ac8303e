"""The queue by itself: what is kept, and for how long."""

import threading
from pathlib import Path

import pytest

from modules.server.jobs import Job, JobQueue
from modules.server.limits import Limits
from modules.server.metrics import Metrics
from modules.server.refusals import Refusal, folder_names, refusal_of, without_places
from modules.server.uploads import bare_name


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def queue_of(tmp_path):
    """Makes queues with limits, whose clock is `queue.now`."""
    made = []

    def make(**limits) -> tuple[JobQueue, Clock]:
        clock = Clock()
        made.append(JobQueue(tmp_path, Limits(**limits), Metrics(), clock))
        return made[-1], clock

    yield make
    assert all([queue.close(20) for queue in made])


def _finished(queue: JobQueue, n_bytes: int = 10) -> Job:
    def work(job: Job) -> None:
        job.result = job.folder / "result.wav"
        job.result.write_bytes(bytes(n_bytes))
        job.report = {"bytes": n_bytes, "seconds": 1.0, "elapsed_seconds": 0.5}

    job = queue.reserve()
    queue.submit(job, work)
    assert job.done.result(20).state == "done"
    return job


def test_results_are_deleted_when_their_time_is_over(queue_of):
    queue, clock = queue_of(keep_minutes=1)
    old = _finished(queue)
    clock.now = 50
    new = _finished(queue)
    clock.now = 61
    queue.sweep()
    with pytest.raises(Refusal, match="over 1 minutes ago"):
        queue.find(old.key)
    assert queue.find(new.key) is new and not old.folder.exists() and new.result.exists()


def test_of_too_many_bytes_the_oldest_go(queue_of):
    queue, clock = queue_of(keep_mb=1)
    jobs = []
    for number in range(4):
        clock.now = number
        jobs.append(_finished(queue, 400_000))
    queue.sweep()
    assert [job.folder.exists() for job in jobs] == [False, False, True, True]
    assert queue.gauges()["kept_bytes"] == 800_000


def test_a_result_that_is_being_read_stays_until_it_is_read(queue_of):
    queue, clock = queue_of(keep_minutes=1)
    job = _finished(queue)
    path = queue.hold(job)
    clock.now = 999
    queue.sweep()
    assert path.exists()
    queue.release(job)
    assert not job.folder.exists()
    with pytest.raises(Refusal):
        queue.hold(job)


def test_a_place_that_is_given_back_is_free_again(queue_of):
    queue, _ = queue_of(queue=1)
    places = [queue.reserve(), queue.reserve()]
    with pytest.raises(Refusal) as refused:
        queue.reserve()
    assert refused.value.status == 503 and "Retry-After" in refused.value.headers
    queue.drop(places[0])
    assert queue.reserve().state == "uploading" and not places[0].folder.exists()


def test_an_error_that_nobody_foresaw_ends_one_job_and_not_the_thread(queue_of, caplog):
    queue, _ = queue_of()

    def work(job: Job) -> None:
        raise KeyError("/srv/secret")

    job = queue.reserve()
    queue.submit(job, work)
    job.done.result(20)
    assert (job.state, job.error.status) == ("failed", 500) and "secret" not in str(job.error)
    assert "KeyError" in caplog.text
    _finished(queue)


def test_a_folder_that_a_client_deletes_at_once_does_not_end_the_thread(queue_of, monkeypatch):
    """The client has its result before the worker has cleared the song away; one of 20,000 met in `glob`."""

    def vanished(folder: Path, pattern: str):
        raise FileNotFoundError(2, "No such file or directory", str(folder))

    queue, _ = queue_of()
    monkeypatch.setattr(Path, "glob", vanished)
    _finished(queue)
    _finished(queue)


def test_a_stopped_queue_takes_nothing(queue_of):
    queue, _ = queue_of()
    place = queue.reserve()
    assert queue.refuse() is None
    for attempt in (queue.reserve, lambda: queue.submit(place, lambda job: None)):
        with pytest.raises(Refusal, match="being stopped"):
            attempt()
    assert threading.active_count() < 50


@pytest.mark.parametrize(
    "name, bare",
    [
        ("song.wav", "song.wav"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\a b.wav", "a b.wav"),
        ("\\\\host\\share\\s.wav", "s.wav"),
        ("a\0\r\nb.wav", "ab.wav"),
        ("..", "song"),
        ("", "song"),
        ("dir/", "song"),
        ("歌.flac", "歌.flac"),
    ],
)
def test_a_clients_name_keeps_only_its_last_part(name, bare):
    assert bare_name(name) == bare


def test_a_message_names_no_place_on_the_server():
    names = {"/tmp/x/song": "my song.wav", **folder_names(Path("/tmp/x"), Path("/srv/voices"), Path("/s"))}
    text = "/tmp/x/song: truncated; /srv/voices/kmeans.pt: no such file (-s/--spk_list)"
    assert without_places(text, names) == "my song.wav: truncated; kmeans.pt: no such file (-s/--spk_list)"


def test_a_full_disk_is_the_servers_fault():
    assert refusal_of(OSError(28, "x", str(Path("/srv/secret"))), {}).status == 507
    assert "secret" not in str(refusal_of(OSError(28, "x", "/srv/secret"), {}))


@pytest.mark.parametrize(
    "limit", [{"queue": 0}, {"max_mb": float("nan")}, {"time_limit": -1.0}, {"grace": float("inf")}]
)
def test_a_limit_that_is_none_is_refused(limit):
    with pytest.raises(Exception, match=f"--{next(iter(limit))} is .*; expected more than 0"):
        Limits(**limit)
