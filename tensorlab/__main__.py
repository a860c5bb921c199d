"""The one command: `tensorlab lab` starts JupyterLab on the lessons, `tensorlab data` lists or gets
data sets, `tensorlab papers` lists the papers whose tables can be run again and `tensorlab run KEY`
does it, `tensorlab course` hands out, checks and marks assignments."""

import argparse
import sys
from pathlib import Path


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


def course(args, options):
    from tensorlab.course import staff

    if args.action == "release":
        print(*staff.release(args.folder, args.names), sep="\n")
    elif args.action == "check":
        staff.report_check(args.file)
    else:
        limits = staff.Limits(args.isolation, args.seconds, args.minutes, args.memory)
        staff.mark(args.folder, limits, workers=args.workers, again=args.again)
        print(args.folder / "marks.csv")


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
    add = commands.add_parser("course", help="assignments: hand out, check, mark")
    course_parser(add.add_subparsers(required=True, dest="action", metavar="ACTION"))
    add.set_defaults(run=course, passes_on=False)
    return top


def course_parser(actions) -> None:
    """The arguments of `tensorlab course`."""
    add = actions.add_parser("release", help="make a course of nbgrader and what students get")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("names", nargs="*", metavar="psN", help="some assignments; all by default")

    add = actions.add_parser("mark", help="mark what is in DIR/submitted and not marked yet")
    add.add_argument("folder", type=Path, metavar="DIR")
    add.add_argument("--workers", type=int, default=2, help="submissions at a time")
    add.add_argument("--seconds", type=int, default=30, help="for a cell of a student")
    add.add_argument("--minutes", type=float, default=10, help="for a submission")
    add.add_argument("--memory", type=float, default=4, help="GiB for a submission")
    add.add_argument("--again", action="store_true", help="mark also what is marked already")
    add.add_argument(
        "--no-isolation",
        dest="isolation",
        action="store_false",
        help="let students' code use the network, where it cannot be cut",
    )

    add = actions.add_parser("check", help="for a student: is this notebook ready to hand in?")
    add.add_argument("file", type=Path, metavar="FILE")


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
