"""Makes tests/goldens/wavlm/: a small WavLM in the layout of Microsoft's files, and what transformers computes with it.

Run in an environment with torch==2.13.0 and transformers, and without torchaudio, from the repository's root:

    python tests/make_wavlm_fixture.py
"""

import re
from pathlib import Path

import numpy as np
import torch
from transformers import WavLMConfig, WavLMModel

FOLDER = Path(__file__).resolve().parent / "goldens" / "wavlm"
LENGTHS = (400, 1039, 6000, 12345)
# transformers' name -> Microsoft's
NAMES = (
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"feature_extractor\.conv_layers\.0\.layer_norm\.", r"feature_extractor.conv_layers.0.2."),
    (r"feature_projection\.layer_norm\.", r"layer_norm."),
    (r"feature_projection\.projection\.", r"post_extract_proj."),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", r"encoder.pos_conv.0.weight_g"),
    (r"encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", r"encoder.pos_conv.0.weight_v"),
    (r"encoder\.pos_conv_embed\.conv\.", r"encoder.pos_conv.0."),
    (r"attention\.gru_rel_pos_const", r"self_attn.grep_a"),
    (r"attention\.gru_rel_pos_linear", r"self_attn.grep_linear"),
    (r"attention\.rel_attn_embed", r"self_attn.relative_attention_bias"),
    (r"layers\.(\d+)\.attention\.", r"layers.\1.self_attn."),
    (r"layers\.(\d+)\.layer_norm\.", r"layers.\1.self_attn_layer_norm."),
    (r"feed_forward\.intermediate_dense", r"fc1"),
    (r"feed_forward\.output_dense", r"fc2"),
    (r"masked_spec_embed", r"mask_emb"),
)


def main() -> None:
    """Writes small.pt and features.npz."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = WavLMConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=96,
        conv_dim=[16] * 7,
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=4,
        num_buckets=16,
        max_bucket_distance=40,
    )
    model = WavLMModel(config).eval()
    with torch.no_grad():  # norms, biases and gates start at ones and zeros, which would hide a mistake in them
        for name, parameter in model.named_parameters():
            wide = "rel_attn_embed" in name or "gru_rel_pos" in name
            if parameter.dim() == 1 or wide:
                parameter.add_((1.0 if wide else 0.1) * torch.randn_like(parameter))
    renamed = {}
    for name, value in model.state_dict().items():
        for pattern, replacement in NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    settings = {
        "encoder_layers": 3,
        "encoder_embed_dim": 128,
        "encoder_ffn_embed_dim": 96,
        "encoder_attention_heads": 2,
        "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "num_buckets": 16,
        "max_distance": 40,
        "normalize": False,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    torch.save({"cfg": settings, "model": renamed}, FOLDER / "small.pt")
    wav = (0.1 * np.random.default_rng(0).standard_normal(max(LENGTHS))).astype(np.float32)
    features = {"wav": wav}
    with torch.no_grad():
        for length in LENGTHS:
            features[str(length)] = model(torch.from_numpy(wav[:length])[None]).last_hidden_state[0].numpy()
    np.savez_compressed(FOLDER / "features.npz", **features)


if __name__ == "__main__":
    main()
