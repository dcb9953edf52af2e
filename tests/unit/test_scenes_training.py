"""The stages of the scenes model, on networks that are small enough to learn in seconds."""

import copy
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sd_scratch.checkpoints import Components, load_components
from sd_scratch.config import TINY, ModelConfig, ScheduleConfig
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.networks.autoencoder import Autoencoder
from sd_scratch.networks.text_encoder import TextEncoder
from sd_scratch.networks.unet import UNet
from sd_scratch.scenes import oracle
from sd_scratch.scenes.captions import full_caption
from sd_scratch.scenes.evaluate import (
    PARTS,
    evaluate_scenes,
    interval,
    make_checks,
    sample_prompts,
    score,
)
from sd_scratch.scenes.graph import crowded_scene, sample_scene
from sd_scratch.scenes.render import render
from sd_scratch.text.tokenizer import Tokenizer
from sd_scratch.training.loop import Run
from sd_scratch.training.scenes.latents import Latents, cached_latents
from sd_scratch.training.scenes.train import export_scenes, make_tokenizer, train_scenes
from sd_scratch.training.scenes.unet import P_EMPTY, UNetTask
from sd_scratch.training.scenes.vae import LOGVAR_START, VaeTask, measure_scale, psnr, start_narrow
from sd_scratch.training.settings import Budget, TrainConfig
from sd_scratch.training.task import Task

CONFIG = replace(
    TINY,
    name="tiny-scenes",
    text=replace(TINY.text, vocab_size=600, max_position_embeddings=32),
    schedule=ScheduleConfig(prediction_type="v_prediction"),
    sample_size=32,
    sampler="ddim",
    steps=2,
    guidance=2.0,
)
EAGER = TrainConfig(batch=4, lr=3e-3, warmup_steps=1, decay_share=0.0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return make_tokenizer(CONFIG)


@pytest.fixture(scope="module")
def vae() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(CONFIG.vae).requires_grad_(False)


class OneBatch(Task):
    """A task that sees the same batch, and the same noise, at every step."""

    def __init__(self, task: Task) -> None:
        self.task, self.model = task, task.model
        self.settings, self.look = task.settings, task.look  # type: ignore[method-assign]

    def loss(self, step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        return self.task.loss(0, torch.Generator().manual_seed(0))


def learn(task: Task, steps: int, folder: Path) -> tuple[float, float]:
    """First and last loss."""
    run = Run(OneBatch(task), EAGER, folder)
    losses = [run.take_step(0.0)["loss"] for _ in range(steps)]
    return losses[0], losses[-1]


def unet_task(vae: Autoencoder, tokenizer: Tokenizer, folder: Path, count: int = 8) -> UNetTask:
    latents = cached_latents(folder, vae, tokenizer, CONFIG.sample_size, 2, count, 2)
    return UNetTask(CONFIG, EAGER, folder, vae, tokenizer, latents)


def test_the_autoencoder_learns_one_batch_by_heart(tmp_path: Path) -> None:
    first, last = learn(VaeTask(CONFIG, EAGER, tmp_path), 120, tmp_path)
    assert last < first / 5


def test_the_unet_learns_one_batch_by_heart(
    tmp_path: Path, vae: Autoencoder, tokenizer: Tokenizer
) -> None:
    first, last = learn(unet_task(vae, tokenizer, tmp_path), 150, tmp_path)
    assert last < first / 5


def test_gradients_reach_the_text_encoder(
    tmp_path: Path, vae: Autoencoder, tokenizer: Tokenizer
) -> None:
    task = unet_task(vae, tokenizer, tmp_path)
    nn.init.normal_(task.networks.unet.conv_out.weight)  # it starts at zero and lets nothing back
    loss, _ = task.loss(0, torch.Generator().manual_seed(0))
    loss.backward()  # type: ignore[no-untyped-call]
    gradient = task.networks.text.encoder.layers[0].self_attn.q_proj.weight.grad
    assert gradient is not None and gradient.abs().max() > 0


def test_the_posterior_starts_narrow() -> None:
    torch.manual_seed(0)
    vae = Autoencoder(CONFIG.vae)
    start_narrow(vae)
    posterior = vae.encode(torch.randn(2, 3, 32, 32))
    assert posterior.logvar.mean().item() == pytest.approx(LOGVAR_START, abs=0.5)
    assert posterior.logvar.std() < 0.2 * posterior.mean.std() + 0.2


def test_psnr_of_a_known_error() -> None:
    assert float(psnr(torch.tensor(4.0))) == 0.0
    assert float(psnr(torch.tensor(4e-3))) == pytest.approx(30.0)


def test_scaled_latents_have_unit_variance(
    tmp_path: Path, vae: Autoencoder, tokenizer: Tokenizer
) -> None:
    scale = measure_scale(vae, CONFIG.sample_size, count=200)
    latents = cached_latents(tmp_path, vae, tokenizer, CONFIG.sample_size, 77, 200, 1)
    assert float((latents.mean.float() * scale).std()) == pytest.approx(1.0, rel=0.05)


def test_one_caption_in_ten_is_empty(
    tmp_path: Path, vae: Autoencoder, tokenizer: Tokenizer
) -> None:
    task = unet_task(vae, tokenizer, tmp_path)
    generator = torch.Generator().manual_seed(0)
    empty = torch.tensor(tokenizer.encode("").ids)
    ids = torch.cat([task.batch(step, generator)[1] for step in range(500)])
    share = (ids == empty).all(dim=1).float().mean().item()
    assert share == pytest.approx(P_EMPTY, abs=0.025)


def test_every_epoch_sees_every_scene_once_with_another_caption(
    tmp_path: Path, vae: Autoencoder, tokenizer: Tokenizer
) -> None:
    task = unet_task(vae, tokenizer, tmp_path)
    # The number of a scene, where a picture was; no posterior noise.
    numbers = torch.arange(8.0)[:, None, None, None].expand(-1, 4, 8, 8).half()
    ids = torch.stack([torch.arange(8), torch.arange(8) + 100], dim=1)[:, :, None]
    ids = ids.expand(-1, -1, 32).short()
    task.latents = Latents(numbers, torch.zeros_like(numbers), ids)
    orders = []
    for epoch in range(2):
        batches = [task.batch(2 * epoch + i, torch.Generator().manual_seed(1)) for i in range(2)]
        seen = torch.cat([x0[:, 0, 0, 0] for x0, _ in batches]) / CONFIG.vae.scaling_factor
        orders.append(seen.round().int().tolist())
        assert sorted(orders[-1]) == list(range(8))
        for x0, token_ids in batches:
            kept = token_ids[:, 0] != task.empty[0]
            expected = (x0[:, 0, 0, 0] / CONFIG.vae.scaling_factor).round().long() + 100 * epoch
            assert torch.equal(token_ids[kept, 0], expected[kept])
    assert orders[0] != orders[1]


def test_latents_are_cached_for_their_autoencoder(
    tmp_path: Path, vae: Autoencoder, tokenizer: Tokenizer
) -> None:
    def get(network: Autoencoder) -> Latents:
        return cached_latents(tmp_path, network, tokenizer, 32, 2, 6, 2)

    first = get(vae)
    written = (tmp_path / "latents.safetensors").stat().st_mtime_ns
    again = get(vae)
    assert (tmp_path / "latents.safetensors").stat().st_mtime_ns == written
    assert torch.equal(first.mean, again.mean) and torch.equal(first.token_ids, again.token_ids)
    torch.manual_seed(1)
    other = get(Autoencoder(CONFIG.vae).requires_grad_(False))
    assert not torch.equal(first.mean, other.mean)


def test_both_stages_give_a_model_that_loads(tmp_path: Path) -> None:
    quick = replace(EAGER, look_seconds=1e9)
    with pytest.raises(ScratchError, match="train the stage vae first"):
        train_scenes("unet", tmp_path, Budget(steps=2), config=CONFIG)
    train_scenes("vae", tmp_path, Budget(steps=2), config=CONFIG, settings=quick)
    outcome = train_scenes(
        "unet", tmp_path, Budget(steps=2), config=CONFIG, settings=quick, scene_count=8
    )
    assert outcome.step == 2
    assert (tmp_path / "unet" / "samples-0000002.png").is_file()

    model = load_components(tmp_path / "model")
    assert model.config.schedule.prediction_type == "v_prediction"
    assert (model.config.sampler, model.config.steps) == ("ddim", 2)
    assert model.config.vae.scaling_factor != CONFIG.vae.scaling_factor
    trained = dict(outcome.ema.named_parameters())
    for key, value in model.unet.named_parameters():
        torch.testing.assert_close(value, trained[f"unet.{key}"], rtol=1e-3, atol=1e-6)

    export_scenes(tmp_path, tmp_path / "again", CONFIG)
    for file in ("unet", "vae"):
        name = f"{file}/diffusion_pytorch_model.safetensors"
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScratchError, match="no stage 'music'"):
        train_scenes("music", tmp_path, Budget(steps=1), config=CONFIG)


def untrained(config: ModelConfig, tokenizer: Tokenizer) -> Components:
    torch.manual_seed(0)
    parts = TextEncoder(config.text), Autoencoder(config.vae), UNet(config.unet)
    return Components(config, *(part.requires_grad_(False) for part in parts), tokenizer)  # type: ignore[arg-type]


def test_an_untrained_model_scores_near_nothing(tokenizer: Tokenizer) -> None:
    scored = evaluate_scenes(untrained(CONFIG, tokenizer), count=12, seeds=1)
    rows = {(row.part, row.attribute): row for row in scored}
    assert rows["one object", "background"].rendered == 1.0
    assert rows["one object", "shape and colour"].generated < 0.5
    assert rows["two objects", "own colours"].generated < 0.5
    assert {row.part for row in scored} == set(PARTS)


def test_fewer_checks_are_a_part_of_more() -> None:
    few, many = make_checks(60), make_checks(200)
    assert len(many) == 200
    assert {check.prompt for check in few} <= {check.prompt for check in many}
    assert all(check.prompt.startswith(("a ", "an ", "two", "three", "four")) for check in many)


def test_as_many_checks_of_every_kind() -> None:
    checks = make_checks(80, alike=True)
    assert Counter(check.part for check in checks) == dict.fromkeys(PARTS, 10)
    assert [c.prompt for c in checks if c.part == "three objects"][:2] == [
        c.prompt for c in make_checks(50) if c.part == "three objects"
    ]


def test_the_interval_of_a_share() -> None:
    """The values are Wilson's for 92 of 100, and for all of 10."""
    assert interval(0.92, 100) == pytest.approx((0.8500, 0.9589), abs=1e-4)
    assert interval(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_the_place_is_asked_for_only_where_it_is_named() -> None:
    checks = make_checks(60)
    readings = oracle.read(render([check.scene for check in checks], 64).images)
    figures = score(checks, readings)
    assert [part for part, name in figures if name == "place"] == ["one object, its place named"]
    assert {share for share, _ in figures.values()} == {1.0}
    assert figures["one object", "shape"][1] == sum(c.part == "one object" for c in checks)


def test_training_goes_on_from_a_model(tmp_path: Path, tokenizer: Tokenizer) -> None:
    quick = replace(EAGER, look_seconds=1e9, lr=1e-6, warmup_steps=0, ema_decay=0.0)
    init = untrained(CONFIG, tokenizer)
    outcome = train_scenes(
        "vae", tmp_path, Budget(steps=1), config=CONFIG, settings=quick, init=init
    )
    assert isinstance(outcome.model, Autoencoder)
    torch.testing.assert_close(
        outcome.model.post_quant_conv.weight, init.vae.post_quant_conv.weight, rtol=0, atol=1e-5
    )
    train_scenes(
        "unet", tmp_path, Budget(steps=1), config=CONFIG, settings=quick, init=init, scene_count=4
    )
    model = load_components(tmp_path / "model")
    assert model.tokenizer.merges == init.tokenizer.merges
    torch.testing.assert_close(
        model.text.embeddings.token_embedding.weight,
        init.text.embeddings.token_embedding.weight,
        rtol=2e-3,
        atol=1e-4,
    )


def test_a_picture_does_not_depend_on_its_batch(tokenizer: Tokenizer) -> None:
    components = untrained(CONFIG, tokenizer)
    prompts = [full_caption(sample_scene(0, i)) for i in range(3)]
    together = sample_prompts(components, prompts, [5, 6, 7], steps=2)
    alone = sample_prompts(components, prompts[1:2], [6], steps=2)
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-4)


def test_only_the_decoder_learns(tmp_path: Path, tokenizer: Tokenizer) -> None:
    quick = replace(EAGER, look_seconds=1e9, warmup_steps=0, ema_decay=0.0)
    init = untrained(CONFIG, tokenizer)
    outcome = train_scenes(
        "vae",
        tmp_path,
        Budget(steps=1),
        config=CONFIG,
        settings=quick,
        init=init,
        decoder_only=True,
    )
    same = {
        name: torch.equal(value, init.vae.state_dict()[name])
        for name, value in outcome.model.state_dict().items()
    }
    assert all(same[name] for name in same if name.startswith(("encoder.", "quant_conv.")))
    assert not any(
        same[name] for name in same if name.endswith("conv_out.weight") and "dec" in name
    )
    with pytest.raises(UsageError, match="begins with a model"):
        train_scenes("vae", tmp_path / "x", Budget(steps=1), config=CONFIG, decoder_only=True)
    with pytest.raises(UsageError, match="for vae and unet"):
        train_scenes("clip", tmp_path / "x", Budget(steps=1), config=CONFIG, crowded=True)


def test_latents_outlive_another_decoder_but_not_other_scenes(
    tmp_path: Path, vae: Autoencoder, tokenizer: Tokenizer
) -> None:
    unet_task(vae, tokenizer, tmp_path)
    file = tmp_path / "latents.safetensors"
    written = file.stat().st_mtime_ns
    other = copy.deepcopy(vae)
    other.decoder.conv_out.weight.data.zero_()
    unet_task(other, tokenizer, tmp_path)
    assert file.stat().st_mtime_ns == written
    first = cached_latents(tmp_path, vae, tokenizer, CONFIG.sample_size, 2, 8, 2)
    crowded = cached_latents(tmp_path, vae, tokenizer, CONFIG.sample_size, 2, 8, 2, True)
    assert not torch.equal(first.token_ids, crowded.token_ids)


def test_crowded_scenes_have_more_objects() -> None:
    plain, crowded = (
        [len(draw(5, i).objects) for i in range(400)] for draw in (sample_scene, crowded_scene)
    )
    assert plain.count(1) / 400 == pytest.approx(0.40, abs=0.06)
    assert crowded.count(1) / 400 == pytest.approx(0.16, abs=0.06)
    assert sum(n > 2 for n in crowded) > 1.5 * sum(n > 2 for n in plain)
