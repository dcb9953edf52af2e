"""Puts together the page that runs in a browser alone; see scripts/build-page."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import sd_scratch as sd
from sd_scratch.errors import ScratchError, UsageError
from sd_scratch.export.onnx import export_onnx
from sd_scratch.files import check_new_folder, new_folder
from sd_scratch.page.guard import TAB_POLICY

ROOT = Path(__file__).resolve().parents[1]
STATIC = ROOT / "sd_scratch" / "page" / "static"
PACKAGE = ROOT / "scripts" / "page"
RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
TENSORS = ("unet.*.attn2.probs", "unet.*.resnets.*.out", "unet.h")  # what the page shows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("model", nargs="?", default="scenes")
    args = parser.parse_args()
    try:
        build(args.folder, args.model)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ScratchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def build(folder: Path, model: str, tensors: Sequence[str] = TENSORS) -> None:
    check_new_folder(folder)
    runtime = install_runtime()
    with new_folder(folder) as part:
        shutil.copytree(STATIC, part, dirs_exist_ok=True)
        page = part / "index.html"
        page.write_text(alone(page.read_text(encoding="utf-8")), encoding="utf-8")
        (part / "runtime").mkdir()
        for name in RUNTIME:
            shutil.copyfile(runtime / name, part / "runtime" / name)
        export_onnx(sd.load(model, device="cpu"), part / "model", tensors)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB")


def alone(page: str) -> str:
    """The page with its engine in the tab, and a policy of its own, for hosts that send none."""
    marker = '<meta name="engine" content="server">'
    assert marker in page
    policy = f'<meta http-equiv="Content-Security-Policy" content="{TAB_POLICY}">'
    return page.replace(marker, f'<meta name="engine" content="tab">\n{policy}')


def install_runtime() -> Path:
    """onnxruntime-web as the lock file pins it. Raises UsageError without npm."""
    dist = PACKAGE / "node_modules" / "onnxruntime-web" / "dist"
    if dist.is_dir():
        return dist
    npm = shutil.which("npm")
    if npm is None:
        raise UsageError(
            "npm is not installed - it brings onnxruntime-web (Debian: the package npm)"
        )
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["npm said nothing"]
        raise ScratchError(f"npm ci failed: {lines[-1][:200]}")
    return dist


if __name__ == "__main__":
    sys.exit(main())
