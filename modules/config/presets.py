"""What a new config differs in from the defaults of `schema.py`: presets and the encoder's widths, nothing repeated."""

import copy
from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    "base": {},
    "tiny": {
        "model": {
            "filter_channels": 512,
            "upsample_initial_channel": 400,
            "use_depthwise_conv": True,
            "flow_share_parameter": True,
        },
    },
    # Converts faster than real time on two CPU cores; the shape of pretrain/base-small. See configs/README.md.
    "small": {
        "train": {
            "batch_size": 4,
            "learning_rate": 2e-4,
            "lr_decay": 0.999,
            "c_kl": 0.2,
            "c_stft": 15.0,
            "ema_decay": 0.999,
            "window_frames": 128,
            "linear_upsampling_steps": 20000,
            "adversarial_from": 1500,
            "log_interval": 50,
            "eval_interval": 250,
        },
        "model": {
            "inter_channels": 96,
            "hidden_channels": 96,
            "filter_channels": 320,
            "n_layers": 4,
            "gin_channels": 96,
            "upsample_initial_channel": 384,
            "discriminator_channels": 256,
            "use_depthwise_conv": True,
            "flow_share_parameter": True,
            "use_automatic_f0_prediction": False,
            "unvoiced_source": True,
        },
    },
    # The whole model, a fraction of its channels: learns a voice on two CPU cores. Not for a voice you keep.
    "micro": {
        "train": {
            "batch_size": 4,
            "learning_rate": 1e-3,
            "c_kl": 0.2,
            "c_stft": 15.0,
            "log_interval": 20,
            "eval_interval": 200,
            "window_frames": 128,
            "linear_upsampling_steps": 2000,
        },
        "model": {
            "inter_channels": 64,
            "hidden_channels": 64,
            "filter_channels": 192,
            "n_layers": 3,
            "gin_channels": 64,
            "upsample_initial_channel": 256,
            "discriminator_channels": 128,
            "use_depthwise_conv": True,
            "use_automatic_f0_prediction": False,
            "unvoiced_source": True,
        },
    },
}

# What a new diffusion.yaml differs in, by the same names: the micro one learns the lowest fifth of the chain only.
DIFFUSION_PRESETS: dict[str, dict[str, Any]] = {
    "base": {"data": {"unit_interpolate_mode": "nearest"}},
    "micro": {
        "data": {"unit_interpolate_mode": "nearest", "duration": 1.5},
        "model": {"n_layers": 10, "n_chans": 192, "n_hidden": 128, "k_step_max": 200},
        "train": {"batch_size": 16, "lr": 1e-3, "interval_val": 200, "interval_force_save": 1000},
    },
}
DIFFUSION_PRESETS |= {"tiny": DIFFUSION_PRESETS["base"], "small": DIFFUSION_PRESETS["micro"]}


def preset_values(name: str, encoder: str, encoder_dim: int) -> dict[str, Any]:
    """The values of a new config.json: a preset, and what it leaves to the encoder.

    Speaker vector and feed-forward layers are as wide as the units, the latter at least 768, as in so-vits-svc.
    """
    values = {"data": {"unit_interpolate_mode": "nearest"}, **copy.deepcopy(PRESETS[name])}
    model = values.setdefault("model", {})
    model.update({"speech_encoder": encoder, "ssl_dim": encoder_dim, "clamp_f0_high": True})
    model.setdefault("gin_channels", encoder_dim)
    model.setdefault("filter_channels", max(768, encoder_dim))
    return values
