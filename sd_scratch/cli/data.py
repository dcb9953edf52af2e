"""``sd-scratch data``: fetch a published data set, or check the one that is there."""

import argparse

from sd_scratch.cli.console import progress_bar
from sd_scratch.cli.options import a_path
from sd_scratch.training.pixels.datasets import DATA_SETS, data_folder, load_data


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", choices=[name for name, row in DATA_SETS.items() if row.source], help="which one"
    )
    parser.add_argument(
        "--folder",
        type=a_path,
        help="where to (default: $SD_SCRATCH_DATA/NAME, else the user's cache)",
    )


def run(args: argparse.Namespace) -> int:
    from sd_scratch.training.pixels.download import download_data

    source = DATA_SETS[args.name].source
    assert source is not None  # it is one of the choices
    folder = args.folder or data_folder(args.name)
    with progress_bar(0, args.name) as bar:

        def show(name: str, have: int, size: int) -> None:
            bar.total, bar.n = size, have
            bar.set_description_str(name, refresh=False)
            bar.update(0)

        download_data(source, folder, show)
    load_data(args.name, folder)  # every file is read and checked
    print(folder)
    return 0
