"""Makes tests/goldens/whisper/: a small Whisper in OpenAI's layout, and what transformers computes with it.

Run in an environment with torch==2.13.0 and transformers, and without torchaudio, from the repository's root:

    python tests/make_whisper_fixture.py
"""

import re
from pathlib import Path

import numpy as np
import torch
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

FOLDER = Path(__file__).resolve().parent / "goldens" / "whisper"
WIDTH, LENGTHS = 64, (16000, 33333)
# transformers' name -> OpenAI's
NAMES = (
    (r"^layers\.", "blocks."),
    (r"\.self_attn\.q_proj\.", ".attn.query."),
    (r"\.self_attn\.k_proj\.", ".attn.key."),
    (r"\.self_attn\.v_proj\.", ".attn.value."),
    (r"\.self_attn\.out_proj\.", ".attn.out."),
    (r"\.self_attn_layer_norm\.", ".attn_ln."),
    (r"\.fc1\.", ".mlp.0."),
    (r"\.fc2\.", ".mlp.2."),
    (r"\.final_layer_norm\.", ".mlp_ln."),
    (r"^layer_norm\.", "ln_post."),
    (r"^embed_positions\.weight$", "positional_embedding"),
)


def main() -> None:
    """Writes small.pt and features.npz."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = WhisperConfig(d_model=WIDTH, encoder_layers=2, encoder_attention_heads=1, encoder_ffn_dim=4 * WIDTH)
    model = WhisperEncoder(config).eval()
    with torch.no_grad():  # norms and biases start at ones and zeros, which would hide a mistake in them
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif "embed_positions" not in name:
                parameter.mul_(3)
    renamed = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[f"encoder.{name}"] = value.clone()
    renamed["decoder.token_embedding.weight"] = torch.zeros(3, WIDTH)
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save({"dims": {"n_mels": 80}, "model_state_dict": renamed}, FOLDER / "small.pt")
    wav = (0.1 * np.random.default_rng(0).standard_normal(max(LENGTHS))).astype(np.float32)
    wav += 0.2 * np.sin(2 * np.pi * 220 / 16000 * np.arange(len(wav))).astype(np.float32)
    features = {"wav": wav}
    extractor = WhisperFeatureExtractor()
    with torch.no_grad():
        for length in LENGTHS:
            mel = extractor(wav[:length], sampling_rate=16000, return_tensors="pt").input_features
            found = model(mel).last_hidden_state[0, : length // 320]
            features[str(length)] = found.numpy()
    np.savez_compressed(FOLDER / "features.npz", **features)


if __name__ == "__main__":
    main()
