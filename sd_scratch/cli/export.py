"""``sd-scratch export``: a model in another runtime's format."""

import argparse

from sd_scratch.cli.options import (
    a_name,
    a_path,
    add_message_arguments,
    add_size_arguments,
    add_source_arguments,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    formats = parser.add_subparsers(metavar="FORMAT", title="formats", required=True, dest="format")
    onnx = formats.add_parser(
        "onnx", help="three ONNX graphs and a manifest, for browsers and other runtimes"
    )
    add = onnx.add_argument
    add("-m", "--model", type=a_name, default="scenes", help="(default: scenes)")
    add("-o", "--output", type=a_path, required=True, metavar="FOLDER", help="a new folder")
    add(
        "--tensors",
        action="append",
        default=[],
        metavar="GLOB",
        help="tensors of the U-Net that its graph returns, such as 'unet.*.attn2.probs'",
    )
    add_size_arguments(onnx)
    add(
        "--dtype",
        choices=("float16", "float32"),
        default="float16",
        help="of the stored weights (default: float16); the graphs compute in float32",
    )
    add("--overwrite", action="store_true", help="replace the export that is there")
    add_source_arguments(onnx)
    add_message_arguments(onnx)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.export.onnx import FILES, export_onnx, require_packages
    from sd_scratch.files import check_new_folder
    from sd_scratch.pipeline.load import load

    require_packages()
    check_new_folder(args.output, FILES if args.overwrite else ())
    model = load(args.model, device="cpu", revision=args.revision, offline=args.offline)
    export_onnx(
        model,
        args.output,
        args.tensors,
        width=args.width,
        height=args.height,
        half=args.dtype == "float16",
        overwrite=args.overwrite,
    )
    print(args.output)
    return 0
