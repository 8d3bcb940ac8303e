"""Makes tests/goldens/fairseq/: small HuBERT models that fairseq saves, and what fairseq computes with them.

Run in an environment with requirements-fairseq.txt and pytest, from the repository's root:

    python tests/make_fairseq_fixture.py

One model is built like HuBERT base, one like HuBERT large. Their settings are stored in the three forms in which
published files have them: a dictionary, an omegaconf node, an argparse namespace. The weights follow the rule of
`golden_rule`, so base.zip and large.zip are the files of torch.save without them; `small_encoders` puts them back.
"""

import argparse
import enum
import tempfile
from pathlib import Path

import numpy as np
import torch
from fairseq.data import Dictionary
from fairseq.models.hubert.hubert import HubertConfig, HubertModel
from fairseq.tasks.hubert_pretraining import HubertPretrainingConfig
from golden_rule import GOLDENS
from omegaconf import OmegaConf
from small_encoders import noise, rule_values, shapes_of, split_fairseq_file

FOLDER = GOLDENS / "fairseq"
LENGTHS = (400, 1039, 6000, 6321)
CONVS = "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2"
LARGE = {"extractor_mode": "layer_norm", "layer_norm_first": True, "conv_bias": True}


def build(**settings) -> tuple[HubertModel, HubertConfig]:
    """A HuBERT of three layers, 128 wide, its weights by the rule."""
    config = HubertConfig(
        label_rate=50.0,
        conv_feature_layers=CONVS,
        encoder_layers=3,
        encoder_embed_dim=128,
        encoder_ffn_embed_dim=96,
        encoder_attention_heads=2,
        final_dim=24,
        conv_pos=32,
        conv_pos_groups=4,
        **settings,
    )
    words = Dictionary()
    for index in range(5):
        words.add_symbol(str(index))
    model = HubertModel(config, HubertPretrainingConfig(), [words]).eval()
    model.load_state_dict(rule_values(shapes_of(model.state_dict())))
    return model, config


def main() -> None:
    """Writes base.zip, large.zip, namespace.pt, dict.pt and features.npz."""
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    features = {}
    for name, settings in (("base", {}), ("large", LARGE)):
        model, config = build(**settings)
        settings = {key: str(value) if isinstance(value, enum.Enum) else value for key, value in vars(config).items()}
        node = OmegaConf.create({"model": settings, "task": {"_name": "hubert_pretraining"}})
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / f"{name}.pt"
            torch.save({"args": None, "cfg": node, "model": model.state_dict()}, whole)
            split_fairseq_file(whole, FOLDER / f"{name}.zip", shapes_of(model.state_dict()))
        with torch.no_grad():
            for length in LENGTHS:
                source = torch.from_numpy(noise(length))[None]
                for layer in (1, 2, 3, None):
                    found, _ = model.extract_features(source, None, mask=False, output_layer=layer)
                    features[f"{name}_{length}_{layer or 'end'}"] = found[0].numpy()
                    if layer == 2:
                        features[f"{name}_{length}_{layer}_projected"] = model.final_proj(found)[0].numpy()
    tiny = {name: value[:2].clone() for name, value in model.state_dict().items() if "layers.0.fc1" in name}
    namespace = argparse.Namespace(arch="hubert", layers=3, nested=argparse.Namespace(rate=16000))
    torch.save({"args": namespace, "model": tiny}, FOLDER / "namespace.pt")
    torch.save({"cfg": {"model": settings}, "model": tiny}, FOLDER / "dict.pt")
    np.savez_compressed(FOLDER / "features.npz", **features)


if __name__ == "__main__":
    main()
