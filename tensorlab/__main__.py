"""Compresses and trains neural networks by matrices and tensors of low rank: the lessons, the
papers' tables as programs, the data sets they use, and assignments that mark themselves."""

import argparse
import sys
from pathlib import Path


def lab(args, options):
    from tensorlab.course import lab

    if args.copy:
        lab.copy(args.folder)
    else:
        lab.start(args.port, args.browser, options, args.folder)


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

    if args.key != "all" and args.jobs != 1:
        raise ValueError(f"run: needs all for several jobs, got {args.key} and {args.jobs} jobs")
    elif args.key != "all":
        options = dict(resume=args.resume, record=args.record, share=args.share)
        papers.run(args.key, args.preset, **options)
    elif args.record or args.share:
        what = "to record" if args.record else "with --share"
        raise ValueError(f"run: needs the key of one paper {what}, got all")
    elif failed := papers.run_all(args.preset, args.jobs, resume=args.resume):
        raise ValueError(
            f"run: needs all programs to end well, got failures of {', '.join(failed)}"
        )


def doctor(args, options):
    from tensorlab import doctor

    print(doctor.report())


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
    """The command with all that it takes; each example is one that a test runs or parses."""
    top = argparse.ArgumentParser(
        prog="tensorlab",
        description=__doc__,
        epilog="tensorlab COMMAND --help says more about one, with an example",
    )
    top.add_argument("--version", action="store_true", help="print the version and end")
    commands = top.add_subparsers(metavar="COMMAND", dest="command")
    _lab(commands)
    _run(commands)
    _command(commands, papers, "list the papers whose tables can be run", "tensorlab papers")
    add = _command(
        commands,
        data,
        "list the data sets, or get one",
        "tensorlab data get mnist",
        "tensorlab data",
    )
    add.add_argument("action", nargs="?", choices=["list", "get"], default="list")
    add.add_argument("name", nargs="?", help="which one to get")
    about = "say what this machine has, what is missing, and how to get it"
    _command(commands, doctor, about, "tensorlab doctor")
    _course(commands)
    return top


def _command(commands, run, about: str, *examples: str) -> argparse.ArgumentParser:
    """A sub-command named as the function that does it, with examples in its help."""
    add = commands.add_parser(
        run.__name__,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog="\n  ".join(["examples:" if len(examples) > 1 else "example:", *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.set_defaults(run=run)
    return add


def _lab(commands) -> None:
    add = _command(
        commands,
        lab,
        "copy the lessons to a folder and open them in JupyterLab; other options go to JupyterLab",
        "tensorlab lab",
        "tensorlab lab ~/lessons --no-browser --ServerApp.ip=0.0.0.0",
    )
    add.add_argument(
        "folder",
        nargs="?",
        metavar="DIR",
        help="where to copy them, and what you have changed stays (in a clone: work, else "
        "tensorlab-lessons)",
    )
    add.add_argument(
        "--copy", action="store_true", help="copy them only, as a JupyterHub does that serves them"
    )
    add.add_argument(
        "--port", type=int, default=8888, help="where to serve; the next free one when it is in use"
    )
    add.add_argument(
        "--no-browser", dest="browser", action="store_false", help="print the address only"
    )


def _run(commands) -> None:
    add = _command(
        commands,
        run,
        "run a paper's table again beside its printed numbers; csv and png go to results/",
        "tensorlab run Khrulkov2018 --preset quick",
        "tensorlab run all --jobs 4",
    )
    add.add_argument("key", help="which one, or all; `tensorlab papers` lists them")
    add.add_argument(
        "--preset", default="quick", help='"quick", for a laptop and without data, or "full"'
    )
    add.add_argument(
        "--no-resume",
        dest="resume",
        action="store_false",
        help="measure again what a run before has measured",
    )
    add.add_argument(
        "--record",
        action="store_true",
        help="keep what preset full measured as data/measured/KEY.csv",
    )
    add.add_argument("--jobs", type=int, default=1, metavar="N", help="of all: N at a time")
    add.add_argument(
        "--share",
        choices=("batches", "rows"),
        help="what processes under torchrun share; rows keep the numbers of one process to the bit",
    )


def _course(commands) -> None:
    examples = [f"tensorlab course {e}" for e in ("release DIR", "mark DIR", "check ps1.ipynb")]
    about = "hand out assignments, check one before handing in, mark those handed in"
    actions = _command(commands, course, about, *examples).add_subparsers(
        required=True, dest="action", metavar="ACTION"
    )
    add = actions.add_parser("release", help="make a course of nbgrader and what students get")
    add.add_argument("folder", type=Path, metavar="DIR")
    help = "some assignments; all by default"
    add.add_argument("names", nargs="*", default=[], metavar="psN", help=help)

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
        help="let students' code use the network and read the course's folder",
    )

    add = actions.add_parser("check", help="for a student: is this notebook ready to hand in?")
    add.add_argument("file", type=Path, metavar="FILE")


def _parsed(top: argparse.ArgumentParser, argv: list[str]):
    """The arguments, and the options that are JupyterLab's; a word after such an option is its
    value, not the folder."""
    args, options = top.parse_known_args(argv)
    if args.command != "lab" or args.folder is None:
        return args, options
    before = argv[argv.index(args.folder) - 1]
    if before in options and "=" not in before:
        options.insert(options.index(before) + 1, args.folder)
        args.folder = None
    return args, options


def main(argv: list[str] | None = None) -> None:
    top = parser()
    args, options = _parsed(top, sys.argv[1:] if argv is None else argv)
    if args.version:
        from tensorlab import __version__

        print(f"tensorlab {__version__}")
        return
    if args.command is None:
        top.error("needs a COMMAND, got none; tensorlab --help lists them")
    if options and args.command != "lab":
        top.error(f"unrecognized arguments: {' '.join(options)}")
    if args.command == "data" and args.action == "get" and args.name is None:
        top.error("data get needs a name; `tensorlab data` lists them")
    try:
        args.run(args, options)
    except (ValueError, OSError, ModuleNotFoundError) as error:  # sentences for the user
        sys.exit(f"tensorlab {error}")


if __name__ == "__main__":
    main()
