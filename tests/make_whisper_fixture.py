"""Makes tests/goldens/whisper/: a small Whisper in OpenAI's layout, and what transformers computes with it.

Run in an environment with torch==2.13.0, transformers and pytest, and without torchaudio, from the repository's root:

    python tests/make_whisper_fixture.py

The weights follow the rule of `golden_rule` by OpenAI's names, and so does the table of positions, which shows that it
is the file's that is used; `small_encoders` makes the file from small.json.
"""

import json
import re

import numpy as np
import torch
from golden_rule import GOLDENS
from small_encoders import rule_values, shapes_of, tone
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

FOLDER = GOLDENS / "whisper"
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
    """Writes small.json and features.npz."""
    torch.set_num_threads(1)
    config = WhisperConfig(d_model=WIDTH, encoder_layers=2, encoder_attention_heads=1, encoder_ffn_dim=4 * WIDTH)
    model = WhisperEncoder(config).eval()
    names = {}
    for name in model.state_dict():
        names[name] = name
        for pattern, replacement in NAMES:
            names[name] = re.sub(pattern, replacement, names[name])
        names[name] = f"encoder.{names[name]}"
    shapes = shapes_of({names[name]: value for name, value in model.state_dict().items()})
    values = rule_values(shapes)
    model.load_state_dict({name: values[renamed] for name, renamed in names.items()})
    shapes["decoder.token_embedding.weight"] = f"3x{WIDTH}"
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {"dims": {"n_mels": 80}, "model_state_dict": shapes}
    (FOLDER / "small.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    features = {}
    extractor = WhisperFeatureExtractor()
    with torch.no_grad():
        for length in LENGTHS:
            mel = extractor(tone(length), sampling_rate=16000, return_tensors="pt").input_features
            found = model(mel).last_hidden_state[0, : length // 320]
            features[str(length)] = found.numpy()
    np.savez_compressed(FOLDER / "features.npz", **features)


if __name__ == "__main__":
    main()
