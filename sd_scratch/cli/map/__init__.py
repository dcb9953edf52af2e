"""``sd-scratch map``: experiments on what in the prompt and the noise makes what in the picture."""

import argparse

from sd_scratch.cli.map import arguments
from sd_scratch.cli.options import add_message_arguments

# What each asks, and its arguments; `experiments` has a function of each name.
EXPERIMENTS = {
    "attention": (
        "the text encoder's attention, per layer and head, for all tokens and for the words",
        arguments.add_attention,
    ),
    "words": (
        "how much attention each word gets in the text encoder, for one prompt or several",
        arguments.add_words,
    ),
    "adjust": (
        "scale a word's vectors: a strip of pictures for a list of lambdas",
        arguments.add_adjust,
    ),
    "perturb": (
        "where the picture changes when a word's vectors grow a little",
        arguments.add_perturb,
    ),
    "gradient": ("how fast each pixel changes as a word's vectors grow", arguments.add_gradient),
    "heat": ("which places look at which word in the U-Net's cross-attention", arguments.add_heat),
    "move": (
        "walk among similar prompts, in the plane in which their vectors differ most",
        arguments.add_move,
    ),
    "noise": (
        "what the noise decides: CLIP scores, mean and spread of pictures over many seeds",
        arguments.add_noise,
    ),
    "latent": (
        "the channels of a picture's latent, and the picture without each of them",
        arguments.add_latent,
    ),
    "film": (
        "how a picture comes out of noise: x_t and x0 at every step, as a film",
        arguments.add_film,
    ),
    "guidance": (
        "what guidance does: pictures of one prompt at several scales",
        arguments.add_guidance,
    ),
    "field": (
        "the score's field and samplers' paths in it, in two dimensions, without a model",
        arguments.add_field,
    ),
    "faithfulness": (
        "which of the maps tell the truth: all of them against masks, swapped words and derivatives",
        arguments.add_faithfulness,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    experiments = parser.add_subparsers(
        metavar="EXPERIMENT", title="experiments", required=True, dest="experiment"
    )
    for name, (text, add_own_arguments) in EXPERIMENTS.items():
        experiment = experiments.add_parser(name, help=text, description=text)
        add_own_arguments(experiment)
        add_message_arguments(experiment)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.map import experiments

    getattr(experiments, args.experiment)(args)
    return 0
