"""python -m tiny_editor COMMAND; see ../README.md"""

import argparse
import subprocess
import sys

import torch


def main():
    parser = argparse.ArgumentParser(prog="tiny_editor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("data", help="download the pictures' packages and unpack them")
    for name, minutes in (("autoencoder", 20), ("text", 8), ("editor", 245), ("decoder", 2.5)):
        stage = commands.add_parser(name, help=f"train the {name} on one core; goes on where it was stopped")
        stage.add_argument("--minutes", type=float, default=minutes, help="of the processor's time, in all, over every start")
        if name == "editor":
            stage.add_argument("--helper", action="store_true", help="lend gradients to a run that has begun")
    commands.add_parser("examine", help="judge the editor's checkpoint, without comfyd")
    commands.add_parser("export", help="write the three files")
    sheet = commands.add_parser("sheet", help="make the pictures of docs/tiny-editor.md")
    sheet.add_argument("binary", help="comfyd, built for release")
    evaluate = commands.add_parser("evaluate", help="judge the three files through comfyd")
    evaluate.add_argument("binary", help="comfyd, built for release")
    evaluate.add_argument("--each", type=int, default=6, help="photos a family")
    evaluate.add_argument("--only", default="", help="plans whose name starts so")
    commands.add_parser("all", help="data, the four stages and export")
    run(parser.parse_args())


def run(args):
    torch.set_num_threads(1)
    if args.command == "all":
        # Each in a process of its own: what one leaves in memory does not slow the next.
        for command in ("data", "autoencoder", "text", "editor", "decoder", "export"):
            subprocess.run([sys.executable, "-m", "tiny_editor", command], check=True)
    elif args.command == "data":
        from .data import fetch
        fetch()
    elif args.command == "autoencoder":
        from .train_autoencoder import train
        train(args.minutes)
    elif args.command == "text":
        from .train_text import train
        train(args.minutes)
    elif args.command == "editor":
        from .train_editor import train
        train(args.minutes, args.helper)
    elif args.command == "decoder":
        from .train_decoder import train
        train(args.minutes)
    elif args.command == "examine":
        from .examine import examine
        examine()
    elif args.command == "export":
        from .export import export
        export()
    elif args.command == "sheet":
        from .sheet import make
        make(args.binary)
    else:
        from .evaluate import evaluate
        evaluate(args.binary, args.each, args.only)


main()
