"""The one command: `tensorlab lab` starts JupyterLab on the lessons, `tensorlab data` lists or gets
data sets, `tensorlab papers` lists the papers whose tables can be run again and `tensorlab run KEY`
does it."""

import argparse
import sys


def lab(args, options):
    from tensorlab.course import lab

    lab.start(args.port, args.browser, options)


def data(args, options):
    from tensorlab import datasets

    if args.action == "get":
        print(datasets.get(args.name))
        return
    for row in datasets.available():
        print(
            f"{row.name:16} {row.where:12} {row.what}"
            + (f"   ({row.command})" if row.command else "")
        )


def papers(args, options):
    from tensorlab import papers

    for key, program in papers.programs().items():
        print(f"{key:18} {program.title}")


def run(args, options):
    from tensorlab import papers

    papers.run(args.key, args.preset, resume=args.resume, record=args.record)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="tensorlab", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    add = commands.add_parser(
        "lab", help="start JupyterLab on the lessons; further options are given to JupyterLab"
    )
    add.add_argument(
        "--port", type=int, default=8888, help="where to serve; the next free one when it is in use"
    )
    add.add_argument(
        "--no-browser", dest="browser", action="store_false", help="print the address only"
    )
    add.set_defaults(run=lab, passes_on=True)

    add = commands.add_parser("data", help="list the data sets, or get one")
    add.add_argument("action", nargs="?", choices=["list", "get"], default="list")
    add.add_argument("name", nargs="?", help="which one to get")
    add.set_defaults(run=data, passes_on=False)

    add = commands.add_parser("papers", help="list the papers that can be run")
    add.set_defaults(run=papers, passes_on=False)

    add = commands.add_parser(
        "run",
        help="run a paper's table; writes csv and png under results/, and goes on where it was",
    )
    add.add_argument("key", help="which one; `tensorlab papers` lists them")
    add.add_argument(
        "--preset", default="quick", help='"quick", for a laptop and without data, or "full"'
    )
    add.add_argument(
        "--no-resume", dest="resume", action="store_false", help="measure again what is there"
    )
    add.add_argument(
        "--record",
        action="store_true",
        help="keep what preset full measured as data/measured/KEY.csv",
    )
    add.set_defaults(run=run, passes_on=False)
    return top


def main(argv: list[str] | None = None) -> None:
    top = parser()
    args, options = top.parse_known_args(argv)
    if options and not args.passes_on:
        top.error(f"unrecognized arguments: {' '.join(options)}")
    if getattr(args, "action", None) == "get" and args.name is None:
        top.error("data get needs a name; `tensorlab data` lists them")
    try:
        args.run(args, options)
    except (ValueError, OSError, ModuleNotFoundError) as error:  # sentences for the user
        sys.exit(f"tensorlab {error}")


if __name__ == "__main__":
    main()
