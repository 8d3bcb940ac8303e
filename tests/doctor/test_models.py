"""What trainings leave behind, damaged, mixed up and overtrained on purpose; and a run that is as it should be."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import Payload, flip_a_bit
from doctor_workspaces import CONFIG, LOGS, bad, by_kind, change_config, make_config, the_one

from models import build_synthesizer
from modules.config.diffusion import DiffusionConfig, save_diffusion_config
from modules.config.io import load_config, save_config, to_plain
from modules.doctor import models
from modules.doctor.findings import Finding
from modules.doctor.models import check_models, is_worse_since
from modules.files import write_json
from modules.training.distributed import random_state
from modules.training.loop import TrainState
from modules.training.resume import save_best, save_state
from modules.training.scores import ScoreBoard, Scores
from modules.training.step import VitsStep
from modules.weights.checkpoint import load_weights, save_weights
from vdecoder.discriminators import MultiPeriodDiscriminator

CPU = torch.device("cpu")
RUN = LOGS / "44k"
G, D = RUN / "G_20.pth", RUN / "D_20.pth"


def make_step(config, seed: int = 1) -> VitsStep:
    torch.manual_seed(seed)
    net_d = MultiPeriodDiscriminator(channels=config.model.discriminator_channels)
    return VitsStep(build_synthesizer(config), net_d, config, CPU)


def write_scores(path: Path, mels: list[float]) -> None:
    board = ScoreBoard(path)
    for index, mel in enumerate(mels, start=1):
        board.add(10 * index, 1, Scores(mel, 10.0, 0.1, None))


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A run of two checkpoints, with its config, scores and best voice; tests copy it."""
    folder = tmp_path_factory.mktemp("run")
    config = make_config()
    step = make_step(config)
    for number in (10, 20):
        save_state(folder / RUN, TrainState(number, 3, 1), step, [random_state(CPU)])
    save_best(folder / RUN, TrainState(20, 3, 1), step)
    for path in (folder / CONFIG, folder / RUN / "config.json"):
        save_config(config, path)
    write_scores(folder / RUN / "scores.csv", [0.9, 0.8])
    return folder


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch, original):
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


def check() -> list[Finding]:
    found = check_models(LOGS, CONFIG, show=False)
    assert all("\x1b" not in str(finding) for finding in found)
    return found


def only(kind: str) -> Finding:
    return the_one(check(), kind)


def test_a_run_as_it_should_be_is_two_facts():
    found = check()
    assert [(finding.level, finding.kind) for finding in found] == [("info", "run"), ("info", "scores")]
    assert "2 pairs; training would go on from step 20" in found[0].text
    assert "step 20 is the best so far (mel 0.800), 20 the newest of 2" in found[1].text


def test_no_logs_is_one_fact():
    shutil.rmtree(LOGS)
    (found,) = check()
    assert found.level == "info" and "nothing was trained yet" in found.text
    (LOGS / "empty/eval").mkdir(parents=True)
    (found,) = check()
    assert found.level == "info" and "no model yet" in found.text


def test_runs_are_found_in_folders_of_folders_and_through_links():
    (LOGS / "voices").mkdir()
    RUN.rename(LOGS / "voices/a")
    assert [finding.subject for finding in by_kind(check(), "run")] == ["logs/voices/a"]
    if hasattr(os, "symlink") and os.name != "nt":
        (LOGS / "voices").rename("elsewhere")
        LOGS.joinpath("far").symlink_to(Path("elsewhere").resolve(), target_is_directory=True)
        LOGS.joinpath("loop").symlink_to(LOGS.resolve(), target_is_directory=True)
        assert [finding.subject for finding in by_kind(check(), "run")] == ["logs/far/a"]


DAMAGES = [(G, damage) for damage in ("a bit", "cut", "empty", "text")]
DAMAGES += [(path, "a bit") for path in (D, RUN / "G_10.pth", RUN / "G_best.pth")]


@pytest.mark.parametrize(("path", "damage"), DAMAGES)
def test_a_checkpoint_that_is_damaged_is_an_error_that_names_it(path, damage):
    if damage == "a bit":
        flip_a_bit(path)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1000])
    else:
        path.write_bytes(b"not weights" * (damage == "text"))
    found = only("damaged")
    assert found.level == "error" and found.files == (path,) and path.name in found.subject
    if path in (G, D):
        assert "go on from step 10" in by_kind(check(), "run")[0].text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link"])
def test_what_is_no_file_is_named_and_nothing_hangs(kind):
    G.unlink()
    {"pipe": os.mkfifo, "folder": os.mkdir, "broken link": lambda at: G.symlink_to("nowhere")}[kind](G)
    found = only("unusable")
    assert found.level == "error" and found.files == (G,)


def test_a_checkpoint_that_may_not_be_read_is_named(monkeypatch):
    plain = Path.open

    def deny(self, *arguments, **named):
        if self.name == G.name:
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", deny)
    assert "permission denied" in only("unusable").text


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path):
    torch.save({"model": Payload(os.mkdir, str(tmp_path / "attacked"))}, G)
    assert "could run code" in only("unusable").text and not (tmp_path / "attacked").exists()


def test_when_no_pair_is_left_a_training_cannot_go_on():
    for path in (G, RUN / "D_10.pth"):
        flip_a_bit(path)
    kinds = [finding.kind for finding in check() if finding.level == "error"]
    assert kinds == ["damaged", "damaged", "pair"]


def test_a_half_without_its_other_half_is_named():
    D.unlink()
    found = only("pair")
    assert found.level == "warning" and found.subject == G.as_posix() and "has no D_20.pth" in found.text
    (RUN / "D_10.pth").unlink()
    (RUN / "G_10.pth").unlink()
    assert only("pair").level == "error"


def test_a_pair_of_two_runs_or_under_another_name_is_an_error():
    shutil.copy(G, RUN / "G_30.pth")
    shutil.copy(D, RUN / "D_30.pth")
    found = only("pair")
    assert found.level == "error" and "was saved at step 20" in found.text
    for path in (RUN / "G_30.pth", RUN / "D_30.pth"):
        path.unlink()
    content = load_weights(D)
    content["random"] = {"cpu": torch.zeros(8, dtype=torch.uint8)}
    save_weights(D, content)
    assert "another run" in only("pair").text


def test_a_discriminator_in_the_place_of_a_voice_is_named():
    shutil.copy(D, G)
    found = only("unusable")
    assert "is no voice model" in found.text and found.files == (G,)


@pytest.mark.parametrize("entry", ["model", "trained_model"])
def test_weights_that_are_not_finite_are_an_error(entry):
    content = load_weights(G)
    content[entry] = {name: value.clone() for name, value in content["model"].items()}
    content[entry]["pre.weight"][0, 0, 0] = float("nan")
    save_weights(G, content)
    found = only("unusable")
    assert found.level == "error" and "pre.weight holds numbers that are not finite" in found.text


def test_the_workspaces_config_must_be_that_of_the_run_that_was_trained_last():
    change_config("model", speech_encoder="vec768l12", ssl_dim=768)
    found = only("config")
    assert found.level == "error" and "would refuse to go on" in found.text
    assert (
        "model.ssl_dim was 512, now 768" in found.text and "model.speech_encoder was 'whisper-ppg-base'" in found.text
    )
    shutil.copytree(RUN, LOGS / "older")
    for path in (LOGS / "older").iterdir():
        os.utime(path, (1, 1))
    levels = {finding.subject: finding.level for finding in by_kind(check(), "config")}
    assert levels == {"logs/44k/G_20.pth": "error", "logs/older/G_20.pth": "info"}


def test_the_config_beside_a_model_must_be_its_own():
    config = load_config(CONFIG)
    config.spk = {"alto": 1, "bass": 0}
    save_config(config, RUN / "config.json")
    found = only("config")
    assert found.level == "error" and "spk: the id of 'alto' was 0, now 1" in found.text
    (RUN / "config.json").write_text("{")
    assert only("config").level == "warning"


def test_a_published_model_is_held_against_the_config_by_its_sizes():
    for path in (G, D):
        content = load_weights(path)
        save_weights(path, {key: content[key] for key in ("model", "iteration", "optimizer", "learning_rate")})
    assert bad(check()) == []
    change_config("model", ssl_dim=768, speech_encoder="vec768l12")
    assert "model.ssl_dim was 512, now 768" in only("config").text


def test_of_many_checkpoints_the_newest_are_read_and_it_is_said(monkeypatch):
    monkeypatch.setattr(models, "_NEWEST", 1)
    flip_a_bit(RUN / "G_10.pth")
    assert bad(check()) == [] and "of which the newest 1 were read" in by_kind(check(), "run")[0].text


def test_a_base_without_its_discriminators_or_of_another_shape_is_named():
    for path in RUN.iterdir():
        path.unlink()
    config = load_config(CONFIG)
    step = make_step(config)
    base = {"iteration": 1, "optimizer": None, "learning_rate": 1e-4}
    save_weights(RUN / "G_0.pth", {"model": step.net_g.state_dict(), **base})
    found = only("base")
    assert found.level == "warning" and "D_0.pth" in found.text
    save_weights(RUN / "D_0.pth", {"model": step.net_d.state_dict(), **base})
    assert bad(check()) == [] and "training begins from it" in by_kind(check(), "base")[0].text
    change_config("model", hidden_channels=16)
    assert "model.hidden_channels was 8, now 16" in only("base").text
    change_config("model", hidden_channels=8)
    other = {**to_plain(config), "model": {**to_plain(config)["model"], "speech_encoder": "vec768l12"}}
    save_weights(RUN / "G_0.pth", {"model": step.net_g.state_dict(), "config": other, **base})
    assert "was trained otherwise" in only("base").text
    flip_a_bit(RUN / "D_0.pth")
    assert {finding.kind for finding in check() if finding.level == "error"} == {"damaged"}


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\xff\xfe", b"step,epoch,mel,f0_cents,voicing,similarity,best\n1,2"]
)
def test_a_table_that_is_none_is_a_warning_and_stays_where_it_is(content):
    path = RUN / "scores.csv"
    path.write_bytes(content)
    assert only("scores").level == "warning" and path.read_bytes() == content and len(list(RUN.glob("scores*"))) == 1


def test_scores_that_have_risen_since_the_best_say_that_the_voice_is_overtrained():
    noise = np.random.default_rng(1).normal(0, 0.005, 40)
    falling = 0.7 + 0.5 * np.exp(-np.arange(40) / 8) + noise
    write_scores(RUN / "scores.csv", falling.tolist())
    assert bad(check()) == []
    rising = falling + np.maximum(0, np.arange(40) - 20) * 0.01
    (RUN / "scores.csv").unlink()
    write_scores(RUN / "scores.csv", rising.tolist())
    found = only("overtrained")
    assert found.level == "warning" and "getting worse since" in found.text and "G_best.pth" in found.remedy


def test_scores_that_only_scatter_are_hardly_ever_called_worse():
    generator, called = np.random.default_rng(0), 0
    for _ in range(2000):
        n = generator.integers(20, 61)
        settle = 0.8 * np.exp(-np.arange(n) / generator.uniform(2, 10))
        called += is_worse_since((0.7 + settle + generator.normal(0, 0.01, n)).tolist())
    assert called <= 6  # 4 in 10000 of more runs
    assert not is_worse_since([0.5]) and not is_worse_since([0.5, 0.6, 0.7])
    assert is_worse_since([0.5, *np.linspace(0.6, 0.8, 12).tolist()])


def write_diffusion(step: int, **changes: object) -> Path:
    config = DiffusionConfig()
    config.data.encoder, config.data.encoder_out_channels, config.spk = "whisper-ppg-base", 512, {"alto": 0, "bass": 1}
    save_diffusion_config(config, CONFIG.with_name("diffusion.yaml"))
    weights = {"decoder.denoise_fn.input_projection.weight": torch.ones(4, 3, 1)}
    content = {"global_step": step, "model": weights, "config": to_plain(config), **changes}
    path = RUN / "diffusion" / f"model_{step}.pt"
    save_weights(path, content)
    save_weights(path.with_name(f"state_{step}.pth"), {"global_step": step, "optimizer": {}})
    return path


def test_diffusion_models_are_looked_at_in_the_same_way():
    path = write_diffusion(2000)
    assert bad(check()) == [] and any("step 2000" in finding.text for finding in by_kind(check(), "run"))
    write_diffusion(4000, global_step=3000)
    found = only("pair")
    assert found.level == "error" and "was saved at step 3000" in found.text
    (RUN / "diffusion/model_4000.pt").unlink()
    flip_a_bit(path)
    assert only("damaged").files == (path,)


def test_a_diffusion_model_of_another_encoder_would_not_go_on():
    path = write_diffusion(2000)
    yaml = CONFIG.with_name("diffusion.yaml")
    yaml.write_text(yaml.read_text().replace("whisper-ppg-base", "vec768l12"))
    found = only("config")
    assert found.level == "error" and "data.encoder was 'whisper-ppg-base', now 'vec768l12'" in found.text
    assert found.files == (path,)


def test_centres_and_an_index_of_another_encoder_are_errors_with_the_command():
    def write(encoder: str, width: int) -> None:
        centres = {"cluster_centers_": torch.zeros(4, width), "n_features_in_": width, "_n_threads": 1}
        save_weights(RUN / "kmeans_10000.pt", {"alto": centres, "speech_encoder": encoder})
        index = {"encoder": encoder, "width": width, "speakers": {}}
        write_json(RUN / "feature_and_index.json", index)

    write("whisper-ppg-base", 512)
    assert bad(check()) == []
    write("vec768l12", 768)
    found = {finding.remedy: finding for finding in check() if finding.level != "info"}
    assert set(found) == {"python cluster/train_cluster.py", "python train_index.py"}
    assert all(each.level == "error" and "vec768l12, 768 wide" in each.text for each in found.values())
    (RUN / "kmeans_10000.pt").write_bytes(b"garbage")
    (RUN / "feature_and_index.json").write_text("[1]")
    assert [finding.level for finding in check() if finding.kind == "centres"] == ["warning", "warning"]
    (RUN / "feature_and_index.pkl").touch()
    assert "not looked at" in by_kind(check(), "centres")[-1].text


def test_a_progress_bar_is_there_only_when_asked_for(capfd):
    check()
    assert capfd.readouterr().err == ""
