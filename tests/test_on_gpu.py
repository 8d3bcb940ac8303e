"""benchmarks/on_gpu.py: all of it on a CPU, what fails or has no time, and its yardstick, the plain training step."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from warm_start import finish

from modules.device import computes_bf16

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    """The modules of the benchmarks are importable as in the scripts."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.fixture
def sections(monkeypatch):
    """Gives on_gpu.py these sections, functions by their names, in the place of its own."""

    def use(**functions):
        import on_gpu

        monkeypatch.setitem(sys.modules, "made_sections", types.SimpleNamespace(**functions))
        monkeypatch.setattr(on_gpu, "SECTIONS", {name: f"made_sections.{name}" for name in functions})
        return on_gpu

    return use


def plan_in(folder, device="cpu"):
    from gpu_report import Plan

    return Plan(device, True, folder)


@pytest.mark.parametrize("script", ["on_gpu", "plain_step", "precision", "layers"])
def test_help_works_in_an_empty_folder_and_imports_nothing_heavy(script, tmp_path):
    code = (
        f"import runpy, sys; sys.path.insert(0, {str(FOLDER)!r}); sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(FOLDER / script)!r} + '.py', run_name='__main__')\n"
        "except SystemExit: print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.startswith("usage: ") and done.stdout.rstrip().endswith("[]"), done.stderr
    assert "--child" not in done.stdout and not list(tmp_path.iterdir())


def test_the_whole_command_runs_on_a_cpu(tmp_path):
    done = finish([FOLDER / "on_gpu.py", "--device", "cpu", "--tiny"], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["on_gpu.json"], "else only a temporary folder is written to"
    found = json.loads((tmp_path / "on_gpu.json").read_text("utf-8"))["sections"]
    skipped = {name for name, section in found.items() if section["status"] == "skipped"}
    assert skipped == {"tests", "auto_batch", "memory", "compiled"}
    assert all(section["status"] == "done" for name, section in found.items() if name not in skipped)
    rows = {(name, row["what"]): row for name, section in found.items() for row in section["rows"]}
    for (name, what), row in rows.items():
        assert row.get("skipped") or row["values"], (name, what)
        assert name in done.stdout and what in done.stdout
        for quantity, value in row.get("values", {}).items():
            assert isinstance(value["value"], str) or value["unit"], (name, what, quantity)
            assert value.get("met") is None, "targets are a GPU's"
    shares = rows["conversion", "fcpe, -shd -ks 100"]["values"]
    assert sum(value["value"] for value in shares.values() if value["unit"] == "%") == pytest.approx(100)
    assert all(value["value"] > 0 for value in shares.values())
    if computes_bf16(CPU):
        assert rows["precision", "base-small, bf16"]["values"]["SNR against fp32"]["value"] > 20
    else:
        assert "imitates" in rows["precision", "base-small, bf16"]["skipped"]
    assert rows["ranks", "gloo, both on cpu"]["values"]["weights"]["value"] == "equal"


def test_what_fails_is_said_and_the_rest_goes_on(sections, tmp_path, capsys):
    from gpu_report import Value

    def no_row(bench):
        raise RuntimeError("first\nthe last line")

    def one_row(bench):
        bench.measure("good", lambda bench: {"speed": Value(3.0, "s")})
        bench.measure("bad", lambda bench: 1 / 0)
        bench.skip("none", "not here")

    def fine(bench):
        bench.measure("good", lambda bench, number: {"speed": Value(number, "s/s", "<= 0.02")}, 0.01)

    output = tmp_path / "found.json"
    on_gpu = sections(no_row=no_row, one_row=one_row, fine=fine)
    assert on_gpu.main(["--device", "cpu", "--tiny", "--output", str(output)]) == 1
    found = json.loads(output.read_text("utf-8"))["sections"]
    assert [found[name]["status"] for name in found] == ["failed", "failed", "done"]
    assert found["no_row"]["reason"] == "RuntimeError: the last line" and "first" in found["no_row"]["log"]
    assert [set(row) - {"what"} for row in found["one_row"]["rows"]] == [
        {"values"},
        {"failed", "traceback"},
        {"skipped"},
    ]
    shown = capsys.readouterr().out
    for text in ("3 s\n", "failed: ZeroDivisionError", "skipped: not here", "0.01 s/s", "target <= 0.02 s/s on a GPU"):
        assert text in shown
    assert shown.rstrip().endswith("found.json; failed: no_row, one_row")


def test_what_there_is_no_time_for_is_listed_and_results_are_kept(sections, tmp_path, monkeypatch, capsys):
    clock = iter([0, 0, 0, 1, 58])
    output = tmp_path / "found.json"
    on_gpu = sections(first=lambda bench: bench.skip("row", "why"), second=None)
    monkeypatch.setattr(on_gpu.time, "monotonic", lambda: next(clock))
    assert on_gpu.main(["--device", "cpu", "--tiny", "--minutes", "1", "--output", str(output)]) == 0
    found = json.loads(output.read_text("utf-8"))["sections"]
    assert found["first"]["status"] == "skipped" and found["second"] == {"status": on_gpu.NO_TIME, "rows": []}
    assert "second: not run: no time left" in capsys.readouterr().out


def test_an_existing_file_is_not_replaced_unasked(sections, tmp_path):
    from modules.errors import UsageError

    output = tmp_path / "found.json"
    output.write_text("mine")
    flags = ["--device", "cpu", "--tiny", "--output", str(output)]
    on_gpu = sections(fine=lambda bench: None)
    with pytest.raises(UsageError, match="exists"):
        on_gpu.main(flags)
    assert output.read_text() == "mine"
    assert on_gpu.main([*flags, "--overwrite"]) == 0 and json.loads(output.read_text())["sections"]["fine"]


def test_a_section_in_a_process_of_its_own_gives_rows_or_its_last_line(tmp_path):
    import on_gpu

    rows = []
    assert on_gpu.run_apart("environment", plan_in(tmp_path), rows, 100)[:2] == ("done", "")
    assert rows[0]["what"] == "machine" and rows[0]["values"]["device"]["value"] == "cpu"
    status, reason, log = on_gpu.run_apart("environment", plan_in(tmp_path), [], 0.0)
    assert (status, reason, log) == ("cut short", "no time left", "")
    status, reason, log = on_gpu.run_apart("tests", plan_in(tmp_path, "cuda:9"), [], 100)
    assert status == "failed" and "Traceback" in log
    assert reason.startswith("ended with 1: UsageError: device 'cuda:9' is not available")


def test_spans_count_once_where_they_overlap():
    from gpu_report import covered

    assert covered([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4 and covered([]) == 0


def test_the_snr_is_that_of_a_known_error():
    from gpu_report import LARGEST_SNR, snr_db

    wav = np.random.default_rng(0).standard_normal(1000)
    assert snr_db(wav, 1.01 * wav) == pytest.approx(40)
    assert snr_db(wav, wav) == LARGEST_SNR and snr_db(wav, np.full(1000, np.nan)) == -LARGEST_SNR


@pytest.mark.parametrize(
    "number, target, met", [(0.02, "<= 0.02", True), (0.03, "<= 0.02", False), (2, ">= 2", True), (90, "> 90", False)]
)
def test_a_target_is_met_on_its_side(number, target, met):
    from gpu_report import Value, is_met

    assert is_met(Value(number, "", target)) is met


def test_tests_are_counted_from_pytests_own_report():
    from gpu_machine import count_tests

    cases = '<testcase name="a"/><testcase name="b"><skipped/></testcase><testcase name="c"><failure/></testcase>'
    cases += '<testcase name="d"><error/></testcase>'
    found = count_tests(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert found == ({"passed": 1, "failed": 2, "skipped": 1}, ["c", "d"])


def test_only_the_outer_of_nested_calls_is_timed():
    from gpu_conversion import watched
    from gpu_report import Bench

    class Encoder:
        def encode(self, wav):
            return wav

        def encode_batch(self, wavs):
            return [self.encode(wav) for wav in wavs]

    encoder = Encoder()
    pipeline = types.SimpleNamespace(predictor=None, encoder=encoder, synthesizer=None, refiner=None)
    with watched(Bench(plan_in(Path()), None), pipeline) as seconds:
        assert encoder.encode_batch([1, 2]) == [1, 2] and encoder.encode(3) == 3
    assert set(seconds) == {"encoder"} and seconds["encoder"] > 0 and not vars(encoder)


def test_the_plain_step_finds_the_losses_of_the_trainers(tmp_path):
    import plain_step
    from gpu_report import Bench
    from gpu_training import build

    bench = Bench(plan_in(tmp_path), None)
    ours = build(bench, "fp32")
    plain = plain_step.PlainStep(ours.config, CPU)
    batch = next(plain_step.batches(ours.config))
    losses = []
    for run in (lambda: float(ours.run([batch]).losses.total), lambda: float(plain.run(batch))):
        torch.manual_seed(3)
        losses.append(run())
    # The discriminators' update comes between; Adam's first one is as long whatever rounding did to the gradient.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    changed = zip(ours.net_g.parameters(), plain.net_g.parameters())
    assert max(float((a - b).detach().abs().max()) for a, b in changed) < 2.1 * ours.config.train.learning_rate


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA here")
def test_the_profiler_sees_a_gpu_at_work():
    from gpu_report import device_seconds

    x = torch.randn(4096, 4096, device="cuda")
    assert 0 < device_seconds(x.device, lambda: x @ x) < 10
