"""One process of a pair's training, alone or one of several."""

import sys
from pathlib import Path

import torch

from sd_scratch.config import ClipConfig, ImageEncoderConfig, TextEncoderConfig
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.training.loop import train
from sd_scratch.training.scenes import pair
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.team import join_team

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ClipConfig(
    text=TextEncoderConfig(
        vocab_size=768,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    ),
    image=ImageEncoderConfig(
        image_size=32,
        patch_size=4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    ),
    projection_dim=16,
)
EAGER = TrainConfig(batch=8, lr=3e-3, warmup_steps=1, decay_share=0.0, log_steps=1)
STEPS = 4

if __name__ == "__main__":
    torch.set_num_threads(1)
    pair.LOOK_COUNT, pair.EASY_STEPS = 4, 0
    words = Tokenizer.from_folder(ROOT / "weights" / "scenes" / "tokenizer", 32)
    with join_team("cpu") as team:
        task = pair.PairTask(EAGER, words, team, CONFIG)
        folder = Path(sys.argv[1])
        train(task, EAGER, Budget(steps=STEPS), folder)
