"""One process of a training, alone or one of several: its journal is the test's evidence."""

import sys
from pathlib import Path

import torch

from sd_scratch.training.pixels.train import train_ddpm
from sd_scratch.training.settings import Budget
from sd_scratch.training.team import join_team
from tests.digits import BETTER, digit_data

if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_team("cpu") as team:
        train_ddpm(BETTER, digit_data(), Path(sys.argv[1]), Budget(steps=12), team=team)
