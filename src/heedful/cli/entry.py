"""The command itself: parse one verb, run it, and turn every error into one message and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from typing import Annotated, Any, NoReturn, Union

import tyro
from rich.console import Console

from heedful import __version__
from heedful.cli.align_verbs import Align, Report, Sweep
from heedful.cli.card_verb import Card
from heedful.cli.evaluate_verbs import Evaluate
from heedful.cli.experiment_verb import Experiment
from heedful.cli.labeling_verbs import Store, Web
from heedful.cli.lineage_verb import Lineage
from heedful.cli.model_verbs import Doctor, Pretrain
from heedful.cli.options import say, subcommand
from heedful.cli.plan_verb import Plan
from heedful.cli.project_verbs import Export, Import, Init, Status
from heedful.cli.prompt_verbs import Prompts
from heedful.cli.release_verb import Release
from heedful.cli.reproduce_verb import Reproduce
from heedful.cli.serve_verbs import Serve, Up
from heedful.errors import HeedfulError, MissingError, StorageError, UserError

VERBS = (
    Align,
    Init,
    Status,
    Import,
    Prompts,
    Export,
    Web,
    Serve,
    Up,
    Store,
    Report,
    Lineage,
    Card,
    Release,
    Evaluate,
    Pretrain,
    Plan,
    Sweep,
    Experiment,
    Reproduce,
    Doctor,
)
"""In the order of the help."""
INTERRUPTED = 130

DESCRIPTION = """\
Teach a language model to follow instructions from human feedback: InstructGPT.
  heedful align                              the built-in miniature
  heedful init mine --base-model FOLDER      or a project of your own:
  heedful import alpaca FILE --project mine  ... add people's data,
  heedful prompts import api LOG --project mine  ... add users' prompts,
  heedful web mine                           ... let people label,
  heedful align mine                         ... train as far as data allow,
  heedful status mine                        ... see what is done or missing,
  heedful up mine                            ... talk to its models"""


def main(arguments: list[str] | None = None) -> None:
    """Run one verb. Exits with 2 for the user's mistakes, 1 for failures, 130 when interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if not _under_torchrun():
        _main(arguments, leads=True)
        return
    from heedful.ranks.ending import announce_end, should_report_error
    from heedful.ranks.world import world

    try:
        try:
            leads = world().is_rank_zero
        except HeedfulError as error:
            _complain(str(error), error.exit_code)
        _main(arguments, leads=leads)
        announce_end(0)
    except SystemExit as stop:
        announce_end(stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1)
        raise
    except Exception:  # a bug in Heedful
        if should_report_error():
            traceback.print_exc()
        announce_end(HeedfulError.exit_code)
        raise SystemExit(HeedfulError.exit_code) from None


def _main(arguments: list[str], *, leads: bool) -> None:
    if arguments in (["--version"], ["version"]):
        if leads:
            print(f"heedful {__version__}")
        return
    verb = None
    try:
        verb = _parsed(arguments, leads=leads)
        _refuse_torchrun(verb)
        verb.run(Console(stderr=True, quiet=not leads))
        sys.stdout.flush()  # notices a closed pipe here, not when Python ends
    except HeedfulError as error:
        _complain(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        missing = _not_installed(error)
        _complain(str(missing), missing.exit_code)
    except BrokenPipeError:
        # Python flushes again when it ends: send that to nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        _complain("the program that reads the output has ended (broken pipe): the rest was not printed", 1)
    except OSError as error:
        _complain(_refused(error), HeedfulError.exit_code)
    except KeyboardInterrupt:
        served = isinstance(verb, Serve | Up | Web)  # these have no work to continue
        again = "" if served else ": run the same command again, and it continues from the last checkpoint"
        _complain(f"interrupted{again}", INTERRUPTED)


def _parsed(arguments: list[str], *, leads: bool) -> Any:
    """The verb that the arguments name. Exits after printing help or an error; under torchrun only one rank prints."""

    def parse() -> Any:
        return tyro.cli(
            _verbs(in_full=arguments[:1] not in ([], ["-h"], ["--help"])),
            prog="heedful",
            description=DESCRIPTION,
            args=arguments or ["--help"],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )

    if leads:
        return parse()
    from heedful.ranks.ending import should_report_error

    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return parse()
    except SystemExit:
        should_report_error()  # torchrun ends all ranks as soon as one has ended: rank 0 must have spoken
        raise


def _verbs(*, in_full: bool) -> Any:
    """The verbs as tyro takes them: the list of verbs shows each docstring's first line, a verb's own help shows all of it."""
    described = [Annotated[verb, subcommand(verb, verb.__name__.lower(), in_full=in_full)] for verb in VERBS]
    return Union[tuple(described)]  # noqa: UP007 (their number is known only at run time)


def _under_torchrun() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def _refuse_torchrun(verb: Any) -> None:
    """Raise UserError for a verb that works in one process: several processes would write each file several times."""
    if _under_torchrun() and not isinstance(verb, Align | Pretrain):
        raise UserError(
            f"heedful {type(verb).__name__.lower()} works in one process",
            expected="one process (align and pretrain work in several)",
            got=f"{os.environ['WORLD_SIZE']} processes of torchrun",
            next_step="start it without torchrun",
        )


def _refused(error: OSError) -> str:
    """The message if the system refused (full disk, no permission). Raises any other error: it is a bug in Heedful."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOMEM):
        raise error
    return str(
        StorageError(
            "the system refused to read or write",
            expected="a disk with room, and folders that may be read and written",
            got=error.strerror or str(error),
            where=error.filename,
            next_step="fix that and run the same command again: it continues where it stopped",
        )
    )


def _not_installed(error: ModuleNotFoundError) -> HeedfulError:
    """An error that says what to install. Raises the original error if the missing module is Heedful's own."""
    if error.name is None or error.name.split(".")[0] == "heedful":
        raise error
    return MissingError(
        "this command needs packages that are not installed",
        expected="the extras train and eval",
        got=f"no module {error.name}",
        next_step="pip install 'heedful[train,eval]'",
    )


def _complain(message: str, exit_code: int) -> NoReturn:
    """Print an error and exit; under torchrun only one rank prints it."""
    if _under_torchrun():
        from heedful.ranks.ending import should_report_error

        if not should_report_error():
            raise SystemExit(exit_code) from None
        if os.environ["RANK"] != "0":
            message = f"rank {os.environ['RANK']}: {message}"
    console = Console(stderr=True)
    if exit_code != INTERRUPTED:
        console.print("error:", style="bold red", end=" ")
    say(console, message)
    raise SystemExit(exit_code) from None
