"""``sd-scratch page``: the page on which a model is under your hands, from a server on this machine."""

import argparse
import contextlib
import socket
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from sd_scratch.cli.options import (
    a_name,
    a_path,
    add_device_arguments,
    add_force_argument,
    add_model_argument,
    add_parts_arguments,
    add_source_arguments,
    integer,
    refuse_flags,
)
from sd_scratch.errors import ScratchError, UsageError, log

if TYPE_CHECKING:
    from sd_scratch.page.engine import Engine
    from sd_scratch.page.session import NoEngine

DEFAULT_PORT, DEFAULT_HOST = 8642, "127.0.0.1"
NO_MODEL = "is for a model that the server runs, and --static serves one that the tab runs"
SMALL = 50_000_000  # weights of a U-Net in which threads cost more than they help, while a browser draws
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("server").add_argument
    add(
        "--port",
        type=integer(0, 65535),
        default=DEFAULT_PORT,
        help=f"0 for any that is free (default: {DEFAULT_PORT})",
    )
    add(
        "--host",
        type=a_name,
        default=DEFAULT_HOST,
        metavar="ADDRESS",
        help=f"where to listen; others than this machine's own let others in (default: {DEFAULT_HOST})",
    )
    add("--no-browser", action="store_true", help="print the address, and open no browser")
    add(
        "--static",
        type=a_path,
        metavar="FOLDER",
        help="serve a page that runs its model in the tab, as scripts/build-page makes it",
    )
    model = parser.add_argument_group("model")
    add_model_argument(model)
    add_source_arguments(model)
    add_parts_arguments(model)
    text = "LoRAs that the page may choose from, each by its name: .safetensors in it and below it"
    model.add_argument("--lora-dir", type=a_path, metavar="FOLDER", help=text)
    add_force_argument(model)
    add_device_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from sd_scratch.page.server import (
        make_application,
        make_static,
        new_token,
        require_packages,
        serve,
    )

    require_packages()
    if args.static is not None:
        refuse_flags(
            args,
            "--revision --offline --vae --text-encoder --lora-dir --force --device --dtype --threads",
            NO_MODEL,
        )
        if args.model is not None:
            raise UsageError(f"--model {NO_MODEL}")
    with contextlib.closing(listen(args.host, args.port)) as listening:
        port = listening.getsockname()[1]
        name = f"[{args.host}]" if ":" in args.host else args.host
        if args.host not in LOOPBACK:
            log.warning(
                f"listening on {args.host}: whoever can reach this machine and knows the address below, which"
                " is sent in the clear, can use the model"
            )
        names = ("127.0.0.1", "localhost", "[::1]", name)
        hosts = frozenset(f"{host}:{port}".lower() for host in names)
        address, engine = f"http://{name}:{port}/", None
        if args.static is not None:
            application = make_static(args.static, hosts)
        else:
            engine, token = make_engine(args), new_token()
            application = make_application(engine, token, hosts)
            address += f"#token={token}"
        print(address, flush=True)
        log.info("Ctrl-C ends it")
        if not args.no_browser:
            # In a thread of its own, because some browsers return only when they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            serve(application, [listening])
        except KeyboardInterrupt:
            log.info("ended")
        finally:
            if engine is not None:
                engine.stop()
    return 0


def make_engine(args: argparse.Namespace) -> "Engine | NoEngine":
    """The model that the flags name, ready to be asked; or what the page then says, where a model is there
    and cannot be had."""
    import torch

    from sd_scratch.checkpoints.source import called
    from sd_scratch.cli.machine import choose_device, choose_dtype, set_threads
    from sd_scratch.page.engine import Engine
    from sd_scratch.page.session import NoEngine
    from sd_scratch.pipeline.load import load
    from sd_scratch.pipeline.recipe import Recipe

    source, loras = args.model or "scenes", find_loras(args.lora_dir)
    vae = args.vae if args.vae != "none" else None
    device = choose_device(args.device)
    set_threads(args.threads)
    try:
        model = load(
            source,
            device=device,
            dtype=choose_dtype(args.dtype, device),
            revision=args.revision,
            offline=args.offline,
            vae=vae,
            text_encoder=args.text_encoder,
            force=args.force,
        )
    except UsageError:
        raise
    except ScratchError as error:
        log.error(str(error))
        return NoEngine(str(error).replace(source, called(source)))
    log.info(model.components.summary)
    weights = sum(parameter.numel() for parameter in model.unet.parameters())
    if args.threads is None and weights < SMALL:
        set_threads(max(1, torch.get_num_threads() - 1))
    name = called(source, ending=False)
    named = Recipe(
        "",
        model=name,
        revision=args.revision,
        vae=vae and called(vae),
        text_encoder=args.text_encoder and called(args.text_encoder),
    )
    return Engine(model, named, loras)


def find_loras(folder: Path | None) -> dict[str, Path]:
    """The LoRAs of a folder and below it, by name. Pickles are left out, and a line says so."""
    if folder is None:
        return {}
    from sd_scratch.cli.adapters import find_files

    files = {name: paths[0] for name, paths in find_files("lora", [], folder).items()}
    loras = {name: path for name, path in files.items() if path.suffix.lower() == ".safetensors"}
    if left := sorted(set(files) - set(loras)):
        names = ", ".join(left[:5])
        log.warning(f"{len(left)} files of {folder} are no .safetensors and left out: {names}")
    log.info(f"{len(loras)} LoRAs of {folder}")
    return loras


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ScratchError where that is not to be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(64)
    except OSError as error:
        found.close()
        raise ScratchError(
            f"cannot listen on {host}:{port}: {error.strerror} - another page may be open there -"
            " choose another with --port, or 0 for any that is free"
        ) from None
    return found
