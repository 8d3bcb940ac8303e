"""Makes tests/goldens/wavlm/: a small WavLM in the layout of Microsoft's files, and what transformers computes with it.

Run in an environment with torch==2.13.0, transformers and pytest, and without torchaudio, from the repository's root:

    python tests/make_wavlm_fixture.py

The weights follow the rule of `golden_rule` by Microsoft's names; `small_encoders` makes the file from small.json.
"""

import json
import re

import numpy as np
import torch
from golden_rule import GOLDENS
from small_encoders import noise, rule_values, shapes_of
from transformers import WavLMConfig, WavLMModel

FOLDER = GOLDENS / "wavlm"
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
    """Writes small.json and features.npz."""
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
    names = {}
    for name in model.state_dict():
        names[name] = name
        for pattern, replacement in NAMES:
            names[name] = re.sub(pattern, replacement, names[name])
    shapes = shapes_of({names[name]: value for name, value in model.state_dict().items()})
    values = rule_values(shapes)
    model.load_state_dict({name: values[renamed] for name, renamed in names.items()})
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
    (FOLDER / "small.json").write_text(json.dumps({"cfg": settings, "model": shapes}, indent=1) + "\n", "utf-8")
    features = {}
    with torch.no_grad():
        for length in LENGTHS:
            features[str(length)] = model(torch.from_numpy(noise(length))[None]).last_hidden_state[0].numpy()
    np.savez_compressed(FOLDER / "features.npz", **features)


if __name__ == "__main__":
    main()
