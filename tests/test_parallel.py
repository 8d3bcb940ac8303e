"""The pool answers for every item: with a result, with its error, or with the death of its worker."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pool_tasks import load, square

from modules.parallel import WorkerDied, choose_workers, run_pool, watch


@pytest.mark.parametrize("workers", [1, 2])
def test_every_item_gets_its_answer_and_an_error_does_not_stop_the_others(workers):
    found = dict(run_pool(square, list(range(20)), workers, load, ("model",)))
    assert isinstance(found.pop(13), ArithmeticError)
    assert {number: answer[0] for number, answer in found.items()} == {n: n * n for n in range(20) if n != 13}
    assert {answer[1] for answer in found.values()} == {"model"}, "the initializer ran in each worker"
    assert ({answer[2] for answer in found.values()} == {os.getpid()}) == (workers == 1)


def test_the_cores_are_shared_out_between_the_workers():
    before = os.environ.get("OMP_NUM_THREADS")
    share = max(1, (os.cpu_count() or 1) // 2)
    assert {answer[3] for _, answer in run_pool(square, [1, 2, 3], 2)} == {str(share)}
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_a_dead_worker_is_named_for_all_that_it_leaves_behind():
    found = dict(run_pool(square, [99, *range(12)], 2))
    assert len(found) == 13 and isinstance(found[99], WorkerDied)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_failing_initializer_is_raised_and_not_hidden(workers):
    with pytest.raises(ValueError, match="no such model"):
        list(run_pool(square, [1, 2, 3], workers, load, ("broken",)))


def test_no_items_is_no_work_and_workers_never_outnumber_items():
    assert list(run_pool(square, [], 4, load, ("broken",))) == []
    assert choose_workers(8, 3) == 3 and choose_workers(0, 1000) == (os.cpu_count() or 1) and choose_workers(0, 0) == 1


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
@pytest.mark.parametrize("pause", [0, 60])
def test_an_interrupted_pool_ends_at_once(pause):
    """Whether Ctrl-C comes while the script waits for an answer, or while it does something with one."""
    code = (
        "import signal, sys, time; sys.path[:0] = sys.argv[1:]\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it\n"
        "from pool_tasks import sleep; from modules.cli import run; from modules.parallel import run_pool\n"
        "def main(_):\n"
        f"    for _ in run_pool(sleep, [0.1, 60, 60], 2): print('go', flush=True); time.sleep({pause})\n"
        "if __name__ == '__main__': run(main)\n"
    )
    here = Path(__file__).resolve().parent
    script = subprocess.Popen(
        [sys.executable, "-c", code, str(here), str(here.parent)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert script.stdout.readline() == b"go\n"
    script.send_signal(2)
    started = time.monotonic()
    script.communicate(timeout=30)
    assert time.monotonic() - started < 15 and script.returncode == 130


@pytest.mark.skipif(os.name == "nt", reason="sends a POSIX signal")
def test_workers_of_a_killed_script_end_with_it():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "if __name__ == '__main__':\n"
        "    from pool_tasks import square; from modules.parallel import run_pool\n"
        "    answers = run_pool(square, list(range(8)), 2)\n"
        "    print(next(answers)[1][2], flush=True); input()\n"
    )
    here = Path(__file__).resolve().parent
    script = subprocess.Popen(
        [sys.executable, "-c", code, str(here), str(here.parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    worker = int(script.stdout.readline())
    script.kill()
    script.wait()
    for _ in range(100):
        if not _runs(worker):
            break
        time.sleep(0.1)
    assert not _runs(worker)
    script.communicate()


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # an orphan that has ended may wait as a zombie for its new parent
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("seconds", [None, 25.0])
def test_watching_changes_nothing_and_shows_nothing_of_what_is_quick(seconds, capsys):
    assert list(watch(iter([1, 2, 3]), seconds, 10.0, "take.wav")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")
