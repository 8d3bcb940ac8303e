"""Jobs run, stop, go on and outlive the process that started them; made-up scripts stand in for ours."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from modules.errors import UsageError
from modules.webui import jobs, panel
from modules.webui.jobs import Stage

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    for job in jobs.all_running():
        job.stop()
        job.stop()
        job.wait(30)


def script(name: str, text: str) -> str:
    path = Path(name).resolve()
    path.write_text(textwrap.dedent(text), "utf-8")
    return str(path)


def stage(name: str, text: str, *flags: str, goes_on: bool = False) -> Stage:
    return Stage(name, (script(f"{name}.py", text), *flags), goes_on)


LONG = """
    import signal, sys, time
    def stop(*_):
        print("saved", flush=True)
        sys.exit(130)
    signal.signal(signal.SIGTERM, stop)
    print("started", flush=True)
    while True:
        time.sleep(0.05)
"""


def wait_for_log(job: jobs.Job, text: str) -> None:
    deadline = time.monotonic() + 30
    while text not in job.log():
        assert time.monotonic() < deadline, job.log()
        time.sleep(0.02)


def test_stages_run_in_turn_with_their_words_as_they_are():
    first = stage("first", "import sys; print('one', sys.argv[1:])", "a b", "$(touch evil)", "ü")
    job = jobs.start("train", [first, stage("second", "print('two')")], run="alto")
    assert job.wait(30) and job.status == "done" and job.codes == [0, 0]
    assert "one ['a b', '$(touch evil)', 'ü']\n" in job.log() and job.log().index("one") < job.log().index("two")
    assert not Path("evil").exists()
    found = jobs.find("train")[0]
    assert found.about == {"run": "alto"} and found.stages == [first, job.stages[1]]


def test_a_failing_stage_ends_the_job_and_says_why():
    bad = stage("bad", "import sys; print('error: no such voice', file=sys.stderr); sys.exit(2)")
    job = jobs.start("train", [bad, stage("never", "print('never')")])
    assert job.wait(30) and job.status == "failed" and job.codes == [2]
    assert job.last_error() == "no such voice" and "never\n" not in job.log()


@pytest.mark.parametrize(("goes_on", "codes"), [(True, [1, 0]), (False, [1])])
def test_a_stage_that_left_files_out_ends_the_job_unless_it_may_go_on(goes_on, codes):
    job = jobs.start("train", [stage("some", "raise SystemExit(1)", goes_on=goes_on), stage("next", "")])
    assert job.wait(30) and job.codes == codes
    assert job.status == ("done" if goes_on else "failed")


@pytest.mark.skipif(os.name == "nt", reason="the script listens for SIGTERM")
def test_stopping_lets_the_script_save_and_resuming_goes_on_with_it():
    count = stage("count", "print('counted', flush=True)")
    job = jobs.start("train", [count, stage("long", LONG)])
    wait_for_log(job, "started")
    job.stop()
    assert job.wait(30) and job.status == "stopped" and job.codes == [0, 130]
    assert "saved" in job.log()
    script("long.py", "print('finished')")
    job.resume()
    assert job.wait(30) and job.status == "done" and job.codes == [0, 0]
    assert job.log().count("counted") == 1 and "finished" in job.log()


@pytest.mark.skipif(os.name == "nt", reason="sends SIGTERM")
def test_asked_twice_it_is_killed_with_what_it_started():
    text = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print("child", child.pid, flush=True)
        time.sleep(60)
    """
    job = jobs.start("train", [stage("deaf", text)])
    wait_for_log(job, "child")
    pid = int(job.log().split("child ")[1].split()[0])
    job.stop()
    assert not job.wait(0.5)
    job.stop()
    assert job.wait(30) and job.status == "stopped" and job.codes == [-9]
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split(") ")[1][:1]:
        assert time.monotonic() < deadline, "the child of a killed script lives on"
        time.sleep(0.05)


def test_one_job_of_a_kind_at_a_time():
    job = jobs.start("train", [stage("long", LONG)])
    with pytest.raises(UsageError, match=r"\(train\) is running"):
        jobs.start("train", [stage("other", "")])
    assert jobs.start("convert", [stage("other", "")]).wait(30)
    assert jobs.running("train").name == job.name and jobs.running("convert") is None


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_job_outlives_the_process_that_started_it():
    path = script("long.py", LONG)
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from modules.webui.jobs import Stage, start
import os, signal
print(start("train", [Stage("long", ({path!r},))]).name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    name = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    job = jobs.get(name)
    assert job.status == "running"
    wait_for_log(job, "started")
    job.stop()
    assert job.wait(30) and job.status == "stopped" and "saved" in job.log()


@pytest.mark.skipif(os.name == "nt", reason="kills by a signal")
def test_a_job_whose_runner_was_killed_is_interrupted_and_resumes():
    job = jobs.start("train", [stage("long", LONG)])
    wait_for_log(job, "started")
    runner = int((job.folder / ".lock").read_text().split()[0])
    script_pid = int(subprocess.run(["pgrep", "-P", str(runner)], capture_output=True, text=True).stdout or 0)
    os.kill(runner, signal.SIGKILL)
    os.kill(script_pid, signal.SIGKILL)
    assert job.wait(30) and job.status == "interrupted"
    script("long.py", "print('finished')")
    job.resume()
    assert job.wait(30) and job.status == "done"


def test_the_bar_of_a_script_is_read_and_left_out_of_the_log():
    text = """
        import logging, sys, time
        from tqdm import tqdm
        for _ in tqdm(range(4), desc="train", unit="step", mininterval=0):
            tqdm.write("a line", file=sys.stderr)
            if _ == 2:
                time.sleep(30)
    """
    job = jobs.start("train", [stage("bar", text)])
    deadline = time.monotonic() + 30
    while (bar := job.bar()) is None or bar.share < 0.5:
        assert time.monotonic() < deadline, job.log()
        time.sleep(0.02)
    assert bar.what == "train" and bar.share == 0.5 and "train: 50%, " in str(bar)
    assert job.log().count("a line") == 3 and "%|" not in job.log()
    assert '<progress max="1" value="0.500">' in panel.describe(job)


def test_old_jobs_are_removed(monkeypatch):
    monkeypatch.setattr(jobs, "KEPT", 1)
    names = [jobs.start("tools", [stage("quick", "")]) for _ in range(3) if all(j.wait(30) for j in jobs.find("tools"))]
    assert [job.name for job in jobs.find("tools")] == [names[-1].name]


def test_a_job_of_a_name_that_leads_elsewhere_is_refused(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"kind": "x", "about": {}, "stages": []}))
    for name in ("../..", str(tmp_path), "", "a/b"):
        with pytest.raises(UsageError, match="there is no job"):
            jobs.get(name)


def test_what_a_script_says_is_shown_as_text():
    evil = stage("evil", "print('error: <img src=x onerror=alert(1)>\\x1b[31m'); raise SystemExit(2)", "<b>")
    job = jobs.start("tools", [evil])
    assert job.wait(30)
    shown = panel.describe(job)
    assert "<img" not in shown and "&lt;img src=x" in shown and "<b>'" not in shown and "\x1b" not in shown
