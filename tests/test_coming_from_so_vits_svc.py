"""docs/coming-from-so-vits-svc.md says what is other here: each row against parsers, schemas and the repository."""

import argparse
import importlib
import re
from pathlib import Path

import pytest
import yaml
from config.test_config import TEMPLATE

import train
from modules.config.diffusion import dump_diffusion_config, parse_diffusion_config
from modules.config.edits import Design
from modules.config.presets import DIFFUSION_PRESETS

ROOT = Path(__file__).resolve().parent.parent
# so-vits-svc 4.1: flag -> default; None where it has none.
UPSTREAM = {
    "resample.py": {
        "--sr2": 44100, "--in_dir": "dataset_raw", "--out_dir2": "dataset/44k", "--skip_loudnorm": False,
    },
    "preprocess_flist_config.py": {
        "--train_list": "filelists/train.txt", "--val_list": "filelists/val.txt", "--source_dir": "dataset/44k",
        "--speech_encoder": "vec768l12", "--vol_aug": False, "--tiny": False, "--tf_flow": False,
    },
    "preprocess_hubert_f0.py": {
        "-d": None, "--device": None, "--in_dir": "dataset/44k", "--use_diff": False, "--f0_predictor": "rmvpe",
        "--num_processes": 1,
    },
    "train.py": {"-c": "configs/config.json", "--config": "configs/config.json", "-m": None, "--model": None},
    "train_diff.py": {"-c": None, "--config": None},
    "train_index.py": {
        "--root_dir": "dataset/44k", "-c": "configs/config.json", "--config": "configs/config.json",
        "--output_dir": "logs/44k",
    },
    "cluster/train_cluster.py": {"--dataset": "dataset/44k", "--output": "logs/44k", "--gpu": False},
    "inference_main.py": {
        "-m --model_path": "logs/44k/G_37600.pth", "-c --config_path": "logs/44k/config.json", "-cl --clip": 0,
        "-n --clean_names": ["君の知らない物語-src.wav"], "-t --trans": [0], "-s --spk_list": "buyizi",
        "-a --auto_predict_f0": False, "-cm --cluster_model_path": "", "-cr --cluster_infer_ratio": 0,
        "-lg --linear_gradient": 0, "-f0p --f0_predictor": "pm", "-eh --enhance": False,
        "-shd --shallow_diffusion": False, "-usm --use_spk_mix": False, "-lea --loudness_envelope_adjustment": 1,
        "-fr --feature_retrieval": False, "-dm --diffusion_model_path": "logs/44k/diffusion/model_0.pt",
        "-dc --diffusion_config_path": "logs/44k/diffusion/config.yaml", "-ks --k_step": 100,
        "-se --second_encoding": False, "-od --only_diffusion": False, "-sd --slice_db": -40, "-d --device": None,
        "-ns": 0.4, "--noice_scale": argparse.SUPPRESS, "-p --pad_seconds": 0.5, "-wf --wav_format": "flac",
        "-lgr --linear_gradient_retain": 0.75, "-eak --enhancer_adaptive_key": 0, "-ft --f0_filter_threshold": 0.05,
        "-fmp": False,
    },
    "compress_model.py": {
        "-c --config": "configs/config.json", "-i --input": None, "-o --output": None, "-hf --half": False,
    },
    "onnx_export.py": {"-n": None, "--model_name": None},
    "webUI.py": {},
}  # fmt: skip
# diffusion.yaml of 4.1 where `preprocess_flist_config.py` leaves it as it is.
DIFFUSION = {
    "data": {
        "sampling_rate": 44100, "block_size": 512, "duration": 2, "cnhubertsoft_gate": 10,
        "encoder_sample_rate": 16000, "encoder_hop_size": 320, "training_files": "filelists/train.txt",
        "validation_files": "filelists/val.txt", "extensions": ["wav"], "unit_interpolate_mode": "nearest",
        "encoder": "vec768l12", "encoder_out_channels": 768,
    },
    "model": {
        "type": "Diffusion", "n_layers": 20, "n_chans": 512, "n_hidden": 256, "use_pitch_aug": True,
        "timesteps": 1000, "k_step_max": 0, "n_spk": 1,
    },
    "device": "cuda", "vocoder": {"type": "nsf-hifigan", "ckpt": "pretrain/nsf_hifigan/model"},
    "infer": {"speedup": 10, "method": "dpm-solver++"}, "env": {"expdir": "logs/44k/diffusion", "gpu_id": 0},
    "train": {
        "num_workers": 4, "amp_dtype": "fp32", "batch_size": 48, "cache_all_data": True, "cache_device": "cpu",
        "cache_fp16": True, "epochs": 100000, "interval_log": 10, "interval_val": 2000, "interval_force_save": 5000,
        "lr": 1e-4, "decay_step": 100000, "gamma": 0.5, "weight_decay": 0, "save_opt": False,
    },
    "spk": {},
}  # fmt: skip


def rows(kind: str = "") -> list[list[str]]:
    """The cells of the table's rows, of one kind: where, so-vits-svc 4.1, here, why."""
    text = (ROOT / "docs/coming-from-so-vits-svc.md").read_text("utf-8")
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert len(found) > 50 and all(len(cells) == 5 for cells in found)
    return [cells[1:] for cells in found[2:] if cells[0] == kind]


def named(cell: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", cell))


def flags_of(script: str) -> dict[str, object]:
    """Flag -> default of one of our scripts, each spelling of its own."""
    if script == "onnx_export.py":  # the parser is made in its main()
        lines = re.findall(r'^    add\((.*?"--\w+")', (ROOT / script).read_text("utf-8"), re.MULTILINE)
        return {flag: None for line in lines for flag in re.findall(r'"(--?\w+)"', line)}
    parser = importlib.import_module(script[:-3].replace("/", ".")).make_arguments()
    actions = [action for action in parser._actions if action.dest != "help"]
    return {flag: action.default for action in actions for flag in action.option_strings}


def upstream_flags(script: str) -> dict[str, object]:
    return {flag: default for names, default in UPSTREAM[script].items() for flag in names.split()}


@pytest.mark.parametrize("script", UPSTREAM)
def test_every_flag_of_so_vits_svc_is_there_and_all_others_are_named(script):
    ours, theirs = flags_of(script), upstream_flags(script)
    assert theirs.keys() <= ours.keys()
    new = {flag for flag in ours.keys() - theirs.keys() if flag.startswith("--") and flag != "--dry_run"}
    assert [named(here) for where, _, here, _ in rows("new flags") if where == f"`{script}`"] == [new]


@pytest.mark.parametrize("script", [script for script in UPSTREAM if script != "onnx_export.py"])
def test_every_default_is_so_vits_svcs_or_has_a_row(script):
    def plain(value):
        return value.as_posix() if isinstance(value, Path) else value

    ours, wanted = flags_of(script), {}
    for flag, default in upstream_flags(script).items():
        if plain(ours[flag]) != default and flag.startswith("--"):
            wanted[f"`{script} {flag}`"] = f"`{default}`" if default is not None else "required"
    listed = {where: theirs for where, theirs, *_ in rows("default") if where.startswith(f"`{script} ")}
    assert listed == wanted


def test_keys_have_so_vits_svcs_defaults_and_the_new_ones_are_listed():
    ours, listed = Design("base", "vec768l12", 768).config(), {where: named(here) for where, _, here, _ in rows("key")}
    flat = {f"{section}.{key}": value for section in ours if section != "spk" for key, value in ours[section].items()}
    theirs = {
        f"{section}.{key}": value for section in ("train", "data", "model") for key, value in TEMPLATE[section].items()
    }
    assert {key: flat[key] for key in theirs} == theirs
    assert flat.keys() - theirs.keys() == listed["new `config.json`"]
    written = yaml.safe_load(dump_diffusion_config(parse_diffusion_config(DIFFUSION_PRESETS["base"])))
    new = {
        f"{section}.{key}": written[section].pop(key)
        for section in DIFFUSION
        if isinstance(written[section], dict)
        for key in written[section].keys() - DIFFUSION[section].keys()
    }
    assert written == DIFFUSION and new.keys() == listed["new `diffusion.yaml`"]


def test_what_is_gone_is_gone_and_what_is_new_is_there():
    gone = set().union(*(named(where) for where, *_ in rows("gone")))
    assert len(gone) >= 12 and not [name for name in gone if (ROOT / name).exists()]
    (new,) = rows("new script")
    assert all((ROOT / name).is_file() for name in named(new[2]))
    code = "".join(path.read_text("utf-8") for path in [*ROOT.glob("*.py"), *ROOT.glob("modules/**/*.py")])
    (files,), (former,) = rows("new file"), rows("gone file")
    assert all(name in code for name in named(files[2]))
    assert not [name for name in named(former[0]) if Path(name).name in code]


def test_an_abbreviation_of_train_py_is_ambiguous_now(capsys):
    assert [where for where, *_ in rows("flag")] == ["`train.py --m`"]
    with pytest.raises(SystemExit, match="2"):
        train.make_arguments().parse_args(["--m", "44k"])
    assert "could match --model, --max_steps" in capsys.readouterr().err
