"""``sd-scratch map``: experiments on what in the prompt and the noise makes what in the picture."""

import argparse

from sd_scratch.cli.map import arguments
from sd_scratch.cli.options import add_message_arguments

# What each asks. `experiments` has a function of each name, `arguments` its add_NAME.
EXPERIMENTS = {
    "attention": "the text encoder's attention, per layer and head, for all tokens and for the words",
    "words": "how much attention each word gets in the text encoder, for one prompt or several",
    "adjust": "scale a word's vectors: a strip of pictures for a list of lambdas",
    "perturb": "where the picture changes when a word's vectors grow a little",
    "gradient": "how fast each pixel changes as a word's vectors grow",
    "heat": "which places look at which word in the U-Net's cross-attention",
    "move": "walk among similar prompts, in the plane in which their vectors differ most",
    "noise": "what the noise decides: CLIP scores, mean and spread of pictures over many seeds",
    "latent": "the channels of a picture's latent, and the picture without each of them",
    "film": "how a picture comes out of noise: x_t and x0 at every step, as a film",
    "guidance": "what guidance does: pictures of one prompt at several scales",
    "field": "the score's field and samplers' paths in it, in two dimensions, without a model",
    "faithfulness": "which of the maps tell the truth: all of them against masks, swapped words and derivatives",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    experiments = parser.add_subparsers(
        metavar="EXPERIMENT", title="experiments", required=True, dest="experiment"
    )
    for name, text in EXPERIMENTS.items():
        experiment = experiments.add_parser(name, help=text, description=text)
        getattr(arguments, f"add_{name}")(experiment)
        add_message_arguments(experiment)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.cli.map import experiments

    getattr(experiments, args.experiment)(args)
    return 0
