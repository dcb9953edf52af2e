"""``sd-scratch explain``: which settings and conventions separate two pictures."""

import argparse
import json
from dataclasses import asdict

from sd_scratch.cli.options import a_path

SHOWN = 70  # characters of a value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "first", type=a_path, metavar="A.png", help="a picture with its settings in it"
    )
    parser.add_argument("second", type=a_path, metavar="B.png", help="another one, of any tool")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from sd_scratch.dialects.differences import differences
    from sd_scratch.dialects.stored_recipe import read_recipe

    (first, left), (second, right) = read_recipe(args.first), read_recipe(args.second)
    found = differences(first, second)
    unread = {str(path): list(names) for path, names in ((args.first, left), (args.second, right))}
    if args.json:
        rows = [{**asdict(each), "convention": each.is_convention} for each in found]
        print(json.dumps({"differences": rows, "not understood": unread}, indent=2, default=str))
        return 0
    for each in found:
        kind = "convention" if each.is_convention else "setting"
        print(f"{each.name} ({kind}): {_show(each.first)} / {_show(each.second)} - {each.decides}")
    for path, names in unread.items():
        if names:
            print(f"{path}: not understood, and may matter: {', '.join(names)}")
    if not found:
        print("nothing separates the two in what their settings say")
    return 0


def _show(value: object) -> str:
    if value is None or value in ("", ()):
        return "not said"
    if isinstance(value, tuple):  # of adapters
        value = ", ".join(":".join(str(part) for part in use) for use in value)
    text = " ".join(str(value).split())
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."
