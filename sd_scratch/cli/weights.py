"""``sd-scratch weights``: which models there are, get one, and what a file is."""

import argparse
import json
from dataclasses import asdict

from sd_scratch.cli.compare import add_compare_arguments, compare_models
from sd_scratch.cli.options import (
    a_name,
    a_path,
    add_lora_argument,
    add_message_arguments,
    add_source_arguments,
    dtype,
    lora_files,
)
from sd_scratch.errors import UsageError, log
from sd_scratch.limits import DTYPES

VERIFIED = {"v1-1": "CompVis/stable-diffusion-v1-1", "v1-4": "CompVis/stable-diffusion-v1-4"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", title="actions", required=True, dest="action")

    listing = actions.add_parser("list", help="models that are shipped, or in the hub's cache")
    listing.set_defaults(act=list_models)

    download = actions.add_parser("download", help="fetch a model of the hub into its cache")
    download.add_argument("model", type=a_name, help="sd15, or a hub id such as owner/name")
    download.set_defaults(act=download_model)

    inspect = actions.add_parser("inspect", help="say what a file or folder is, without loading it")
    inspect.add_argument("model", type=a_name, help="a name, a file, a folder or a hub id")
    inspect.add_argument("--check", action="store_true", help="look for NaN and infinities, too")
    inspect.set_defaults(act=inspect_model)

    convert = actions.add_parser(
        "convert", help="write a model as a folder, or as a .safetensors file"
    )
    add = convert.add_argument
    add("model", type=a_name, help="a name, a file, a folder or a hub id")
    add("output", type=a_path, help="a new folder, or a file NAME.safetensors")
    add_lora_argument(convert, "merge a LoRA into the weights")
    add("--dtype", type=dtype, choices=DTYPES, default="float16", help="of what is written")
    add("--overwrite", action="store_true", help="write over what is there")
    convert.set_defaults(act=convert_model)

    compare = actions.add_parser("compare", help="which tensors of two models, or runs, differ")
    add_compare_arguments(compare)
    compare.set_defaults(act=compare_models)

    verify = actions.add_parser(
        "verify", help="make the pictures whose numbers were published for v1-1 and v1-4"
    )
    verify.add_argument("model", type=a_name, help="a name, a file, a folder or a hub id")
    verify.add_argument(
        "--as",
        dest="weights",
        choices=tuple(VERIFIED),
        help="which it is, where that cannot be told",
    )
    verify.set_defaults(act=verify_model)

    for action in (listing, download, inspect, convert, compare, verify):
        action.add_argument("--json", action="store_true", help="print JSON")
        add_message_arguments(action)
    for action in (download, inspect, convert, compare, verify):
        add_source_arguments(action)


def run(args: argparse.Namespace) -> int:
    code: int = args.act(args)
    return code


def list_models(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints.clip import list_clips, locate_clip
    from sd_scratch.checkpoints.hub import PINNED, list_cached
    from sd_scratch.checkpoints.pixel_model import (
        WEIGHTS_FILE,
        find_pixel_model,
        list_classifiers,
        list_pixel_models,
    )
    from sd_scratch.checkpoints.shipped import list_shipped, shipped_model

    models: list[dict[str, str | int]] = []
    for name in list_shipped():
        folder = shipped_model(name)
        files = folder.rglob("*.safetensors") if folder else ()
        size = sum(file.stat().st_size for file in files)
        models.append({"model": name, "where": "shipped", "bytes": size})
    single_files = [
        *((find_pixel_model(name), "for sd-scratch sample") for name in list_pixel_models()),
        *((locate_clip(name), "for CLIP scores") for name in list_clips()),
        *((find_pixel_model(name), "checks the oracle of scenes") for name in list_classifiers()),
    ]
    for folder, use in single_files:
        size = (folder / WEIGHTS_FILE).stat().st_size
        models.append({"model": folder.name, "where": f"shipped, {use}", "bytes": size})
    for cached in list_cached():
        where = f"hub cache, commit {cached.revision[:10]}"
        models.append({"model": cached.repo, "where": where, "bytes": cached.size})
    for name, pin in PINNED.items():
        if all(model["model"] != pin.repo for model in models):
            where = f"sd-scratch weights download {name}"
            models.append({"model": name, "where": where, "bytes": 0})
    if args.json:
        print(json.dumps(models, indent=2))
        return 0
    for model in models:
        size_text = f"{int(model['bytes']) / 1e6:,.0f} MB" if model["bytes"] else ""
        print(f"{model['model']:48} {size_text:>10}  {model['where']}")
    return 0


def download_model(args: argparse.Namespace) -> int:
    from sd_scratch.checkpoints.hub import download
    from sd_scratch.checkpoints.shipped import list_shipped
    from sd_scratch.checkpoints.source import HUB_ID

    if args.model in list_shipped():
        raise UsageError(f"{args.model} is shipped: there is nothing to download")
    if args.model != "sd15" and not HUB_ID.fullmatch(args.model):
        raise UsageError(f"{args.model} is no hub id - write owner/name, or sd15")
    path = download(args.model, revision=args.revision, offline=args.offline)
    print(json.dumps({"model": args.model, "path": str(path)}) if args.json else path)
    return 0


def inspect_model(args: argparse.Namespace) -> int:
    """Exit status 1 when the model could not be loaded, or holds numbers that are none."""
    from sd_scratch.checkpoints.report import inspect

    report = inspect(args.model, revision=args.revision, offline=args.offline, check=args.check)
    print(json.dumps(asdict(report), indent=2) if args.json else "\n".join(report.lines()))
    return 1 if report.problem or report.not_finite else 0


def convert_model(args: argparse.Namespace) -> int:
    import torch

    from sd_scratch.checkpoints.adapters.apply import Adapter, AppliedLora, with_adapters
    from sd_scratch.checkpoints.adapters.lora import read_lora
    from sd_scratch.checkpoints.load import load_components
    from sd_scratch.checkpoints.save import save_folder, save_single_file
    from sd_scratch.checkpoints.source import WEIGHT_SUFFIXES
    from sd_scratch.cli.output import check_file
    from sd_scratch.files import check_new_folder

    dtype: torch.dtype = getattr(torch, args.dtype)
    loras = lora_files(args)
    output, single = args.output, args.output.suffix == ".safetensors"
    if not single and output.suffix.lower() in WEIGHT_SUFFIXES:
        raise UsageError(f"{output} - a file of weights is written as NAME.safetensors")
    if single or output.is_dir():
        check_file(output if single else output / "model_index.json", args.overwrite)
    else:
        check_new_folder(output)
    model = load_components(args.model, revision=args.revision, offline=args.offline)
    adapters: list[Adapter] = []
    for file, use in loras:
        lora = read_lora(file, model)
        log.info(lora.summary)
        adapters.append(AppliedLora(lora, use.scale, use.text_scale))
    model = with_adapters(model, adapters)  # in fp32; what is written is rounded once
    if single:
        save_single_file(model, output, dtype, overwrite=args.overwrite)
    else:
        save_folder(model, output, dtype, overwrite=args.overwrite)
    path = str(output)
    print(json.dumps({"model": args.model, "path": path}) if args.json else path)
    return 0


def verify_model(args: argparse.Namespace) -> int:
    """Exit status 0 where all numbers are right, 1 where some are not, 2 for weights of which none are known."""
    from sd_scratch.checkpoints.load import load_components
    from sd_scratch.dialects.published import check_published, which
    from sd_scratch.pipeline.stable_diffusion import StableDiffusion

    source = load_components(args.model, revision=args.revision, offline=args.offline)
    model = StableDiffusion(source)
    weights = VERIFIED[args.weights] if args.weights else which(model)
    checked = []
    for found in check_published(model, weights):
        checked.append(found)
        if not args.json:
            print(found, flush=True)
    if args.json:
        rows = [
            {
                "weights": c.row.weights,
                "sampler": c.row.sampler,
                "right": c.right,
                "largest": c.largest,
                "tolerance": c.row.tolerance,
                "found": c.found,
                "expected": c.row.expected,
            }
            for c in checked
        ]
        print(json.dumps(rows, indent=2))
    return 0 if all(c.right for c in checked) else 1
