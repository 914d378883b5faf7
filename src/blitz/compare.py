"""blitz-compare: compare runs and the jobs of sweeps by the metric that they optimize."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from blitz.cli.parser import Parser
from blitz.config.paths import PROJECT, shorten
from blitz.errors import UserError
from blitz.process import signals
from blitz.runs import compare, table
from blitz.runs.collect import Record, collect

DIRECTORIES = (PROJECT / "logs" / "runs", PROJECT / "logs" / "sweeps")  # not logs/debug and logs/evals
FORMATS = {"csv": table.as_csv, "json": table.as_json, "markdown": table.as_markdown}
WHERE = "directories with runs (default: logs/runs and logs/sweeps), and filters by config keys"
PAIR = "mean difference of two recipes over the seeds that both have, with its 95 %% confidence interval"


def arguments() -> argparse.Namespace:
    parser = Parser(prog="blitz-compare", description=__doc__)
    parser.add_argument("where", nargs="*", metavar="DIR|KEY=VALUE", help=WHERE)
    parser.add_argument("--state", choices=compare.ORDER, help="only runs in this state")
    parser.add_argument("--last", type=int, metavar="N", help="only the N runs that were started last")
    parser.add_argument("--sort", metavar="KEY", help="order by another metric, such as test/acc, or a config key")
    parser.add_argument("--group", metavar="KEY", help="mean and standard deviation over a key, such as seed")
    parser.add_argument("--pair", nargs=2, metavar="KEY=VALUE[,...]", help=PAIR)
    formats = parser.add_mutually_exclusive_group()
    for name in FORMATS:
        formats.add_argument(f"--{name}", dest="format", action="store_const", const=name, help=f"print {name}")
    formats.add_argument("--plot", type=Path, metavar="FILE", help="draw the keys and the metric of each run")
    parser.add_argument("--x", metavar="KEY", help="with --plot: draw the metric against this key only")
    options = parser.parse_args()
    if options.x and not options.plot:
        parser.error(f"--x {options.x}: it needs --plot FILE")
    return options


@signals.exit_on_signals()
def main() -> None:
    try:
        compare_runs(arguments())
    except UserError as error:
        sys.exit(f"blitz-compare: {error}")


def compare_runs(options: argparse.Namespace) -> None:
    """Print or draw the runs that the options select."""
    records, console = selected_runs(options), Console(emoji=False)
    make_table: Callable[[Sequence[Record]], compare.Table] = compare.run_table
    if options.pair:
        first, second = map(compare.parse_filters, options.pair)
        make_table = partial(compare.pair_table, first=first, second=second)
    elif options.group:
        make_table = partial(compare.group_table, over=options.group)
    if options.plot:
        from blitz.runs import plot  # here, because it imports matplotlib

        plot.save(compare.plot_data(records, options.x), options.plot, options.x)
    elif options.format:
        sys.stdout.write(FORMATS[options.format](make_table(records)))
    elif options.pair or options.group:
        table.show_tables(records, make_table, console)
    else:
        table.show_runs(records, console)


def selected_runs(options: argparse.Namespace) -> list[Record]:
    """Return the runs of the directories that match the filters, in order.

    Raises:
        UserError: there is none.
    """
    names = [text for text in options.where if Path(text).is_dir()]
    filters = [compare.parse_filter(text) for text in options.where if text not in names]
    directories = [Path(name) for name in names] or [path for path in DIRECTORIES if path.is_dir()]
    found = collect(directories)
    if not found:
        raise UserError(f"no runs in {' '.join(map(shorten, directories or DIRECTORIES))}; blitz-train makes one")
    records = compare.select(found, filters, options.state, options.last)
    return compare.order(records, options.sort)


if __name__ == "__main__":
    main()
