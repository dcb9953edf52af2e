"""Trains a small CLIP on scenes: the vectors of a picture and of its caption are to agree, and no
others.

Radford et al. 2021 (arXiv:2103.00020), figure 3: each picture has to find its caption among all
texts of the batch, and each caption its picture, at a learnt temperature. Some of the texts are
wrong about a picture in one detail (Yuksekgonul et al. 2023, arXiv:2210.01936), because a bag of
words is enough to tell random scenes apart. Both encoders are the pair's own: it judges a model
whose text encoder it does not share.

Because the scenes are known, the encoders also answer questions about them (`lessons`), by linear
layers that are not kept.
"""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sd_scratch.checkpoints.build import seeded
from sd_scratch.checkpoints.clip import DEVIATION, MEAN, ClipModel, save_clip
from sd_scratch.config import SCENES_CLIP, ClipConfig
from sd_scratch.networks.image_encoder import Clip
from sd_scratch.scenes.captions import Caption, caption, hard_negatives, plain_caption
from sd_scratch.scenes.graph import Scene, generator, sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.training.scenes.augment import BLUR, NOISE, SHIFT, draw_wear, worsen
from sd_scratch.training.scenes.lessons import Answers, Lessons, lesson_losses
from sd_scratch.training.scenes.pair_evaluation import evaluate_pair
from sd_scratch.training.settings import TrainConfig
from sd_scratch.training.task import Task
from sd_scratch.training.team import Team

PAIR_TRAINING = TrainConfig(batch=64, lr=1e-3, betas=(0.9, 0.98), ema_decay=0.995)
DATA_SEED = 3
FALSE_TEXTS = 2  # for each picture
EASY = ("colour", "background")  # kinds of falsehood that soon teach nothing more
FALSE_STREAM = 2_000  # of random numbers, for the texts
P_PLAIN = 0.5  # the plain sentence; otherwise one of many captions
LESSON_WEIGHTS = (2.0, 0.5, 0.25, 0.5, 0.5)
EASY_STEPS = 600  # without false texts: what they differ in cannot be seen yet
START_SCALE = math.log(1 / 0.07)
LARGEST_SCALE = math.log(100)
INIT_STD = 0.02
LOOK_COUNT = 128


class Pair(nn.Module):
    """CLIP, and the layers that its encoders are taught with."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.clip = Clip(config)
        self.lessons = Lessons(
            config.image.hidden_size, config.image.patch_size, config.text.hidden_size
        )
        text, vision = self.clip.text_model.embeddings, self.clip.vision_model.embeddings
        # PyTorch's unit variance for embeddings would drown what the layers add to them.
        for table in (text.token_embedding, text.position_embedding, vision.position_embedding):
            nn.init.normal_(table.weight, std=INIT_STD)
        nn.init.constant_(self.clip.logit_scale, START_SCALE)

    def forward(self, pictures: Tensor, token_ids: Tensor) -> tuple[Tensor, ...]:
        """Pictures ``[B, 3, S, S]`` and texts ``[B, N, L]`` -> unit vectors ``[B, D]`` and
        ``[B, N, D]``, the temperature's inverse, and the answers of `Lessons`.

        The patches answer one layer before the end: the last one has to gather what they know.
        """
        vision = self.clip.vision_model
        x = vision.pre_layrnorm(vision.embeddings(pictures))
        half = x
        for i, layer in enumerate(vision.encoder.layers[:-1], start=1):
            x = layer(x)
            half = x if i == len(vision.encoder.layers) // 2 else half
        pooled = vision.post_layernorm(vision.encoder.layers[-1](x)[:, 0])
        images = F.normalize(self.clip.visual_projection(pooled), dim=-1)
        said = self.clip.pooled_text(token_ids.flatten(0, 1)).view(*token_ids.shape[:2], -1)
        texts = F.normalize(self.clip.text_projection(said), dim=-1)
        scale = self.clip.logit_scale.clamp(max=LARGEST_SCALE).exp()
        return images, texts, scale, *self.lessons(half[:, 1:], x[:, 1:], pooled, said[:, 0])


class PairTask(Task):
    """Learns from fresh scenes; it sees every picture once."""

    result = "scenes-clip"

    def __init__(
        self,
        train: TrainConfig,
        tokenizer: Tokenizer,
        team: Team | None = None,
        config: ClipConfig = SCENES_CLIP,
    ) -> None:
        pair = seeded(lambda: Pair(config), train.seed)
        super().__init__(pair, train, team, layout=torch.contiguous_format)
        self.config, self.tokenizer = config, tokenizer

    def settings(self) -> dict[str, Any]:
        return {
            "clip": asdict(self.config),
            "false_texts": FALSE_TEXTS,
            "easy_steps": EASY_STEPS,
            "lessons": list(LESSON_WEIGHTS),
            "augmentation": [BLUR, NOISE, SHIFT],
        }

    def loss(self, step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The contrastive loss of the whole batch, and this process's share of the patches'."""
        side, count = self.config.image.image_size, self.train.batch
        wear = draw_wear(count, side, generator).share(self.team)
        numbers = self.team.share(torch.arange(step * count, (step + 1) * count))
        scenes = [sample_scene(DATA_SEED, i) for i in numbers.tolist()]
        images, masks = render(scenes, side)
        pictures = normalise(worsen(images.to(self.team.device), wear))
        every = [texts_of(scene, i) for scene, i in zip(scenes, numbers.tolist(), strict=True)]
        easy = step < EASY_STEPS
        texts = [[true.text] if easy else [true.text, *false] for true, false in every]
        ids = token_ids(self.tokenizer, texts).to(self.team.device)
        image, text, scale, *answers = self.parallel(pictures, ids)

        contrast, right = contrastive_loss(self.team.gather(image), self.team.gather(text), scale)
        related = [true.mentions >= {"relation", "colour"} for true, _ in every]
        lessons = lesson_losses(Answers(*answers), scenes, masks, related)
        loss = contrast + sum(w * x for w, x in zip(LESSON_WEIGHTS, lessons, strict=True))
        figures = {"loss": loss, "contrast": contrast}
        figures |= lessons._asdict()
        figures |= {"right": right, "scale": scale}
        return loss, {name: self.team.mean(value) for name, value in figures.items()}

    def look(self, model: nn.Module, step: int) -> dict[str, float]:
        rows = evaluate_pair(self.clip_model(model), count=LOOK_COUNT)
        return {f"check {row.question}": row.right for row in rows}

    def export(self, model: nn.Module, folder: Path, step: int, seconds: float) -> None:
        save_clip(self.clip_model(model), folder)

    def clip_model(self, model: nn.Module) -> ClipModel:
        """What is kept of the (averaged) networks."""
        assert isinstance(model, Pair)
        with torch.no_grad():
            model.clip.logit_scale.clamp_(max=LARGEST_SCALE)
        return ClipModel(model.clip, self.tokenizer, "training")


def texts_of(scene: Scene, index: int) -> tuple[Caption, list[str]]:
    """A text that is true of scene number `index`, and `FALSE_TEXTS` texts that are wrong in one
    detail; easy ones are taken only where there are too few others."""
    rng = generator(DATA_SEED, index, FALSE_STREAM)
    plain = rng.random() < P_PLAIN
    true = plain_caption(scene, rng) if plain else caption(scene, DATA_SEED, index)
    false = hard_negatives(scene, rng)
    hard = [kind for kind in false if kind not in EASY]
    kinds = rng.permutation(hard).tolist() + rng.permutation(EASY).tolist()
    return true, [false[kind] for kind in kinds[:FALSE_TEXTS]]


def token_ids(tokenizer: Tokenizer, texts: list[list[str]]) -> Tensor:
    """Ids ``[B, N, L]`` of lists with equally many texts, cut after the end token of the longest.

    What comes after the end token changes nothing: no token sees a later one.
    """
    encodings = [[tokenizer.encode(text) for text in row] for row in texts]
    longest = 2 + max(len(encoding.tokens) for row in encodings for encoding in row)
    return torch.tensor([[encoding.ids[:longest] for encoding in row] for row in encodings])


def normalise(images: Tensor) -> Tensor:
    """Pictures in -1..1 as CLIP reads them."""
    mean, deviation = (
        torch.tensor(x, device=images.device)[:, None, None] for x in (MEAN, DEVIATION)
    )
    return ((images + 1) / 2 - mean) / deviation


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """InfoNCE, from both sides: images ``[B, D]`` and texts ``[B, N, D]``, of which the first of each
    picture is true. Also the share of pictures whose true text has the highest score of all."""
    true, false = texts[:, 0], texts[:, 1:].flatten(0, 1)
    among_texts = scale * images @ torch.cat([true, false]).T  # [B, B N]
    among_images = scale * true @ images.T
    here = torch.arange(len(images), device=images.device)
    loss = (F.cross_entropy(among_texts, here) + F.cross_entropy(among_images, here)) / 2
    return loss, (among_texts.argmax(dim=1) == here).float().mean()
