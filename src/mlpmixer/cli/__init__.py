"""The command `mixer`: parse, call one function, print. Nothing here imports torch before a command runs."""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import os
import re
import sys
from collections.abc import Callable

import tyro

from mlpmixer.cli.bench import bench
from mlpmixer.cli.demo import demo
from mlpmixer.cli.doctor import doctor
from mlpmixer.cli.evaluate import evaluate
from mlpmixer.cli.export import export
from mlpmixer.cli.interpret import interpret
from mlpmixer.cli.models import models
from mlpmixer.cli.output import tell
from mlpmixer.cli.pack import pack
from mlpmixer.cli.predict import predict
from mlpmixer.cli.recipes import recipes
from mlpmixer.cli.report import report
from mlpmixer.cli.reproduce import reproduce
from mlpmixer.cli.runs import runs
from mlpmixer.cli.train import train
from mlpmixer.errors import MixerError, UsageError, nearest
from mlpmixer.version import __version__

COMMANDS: dict[str, Callable[..., None]] = {
    "models": models,
    "doctor": doctor,
    "pack": pack,
    "recipes": recipes,
    "train": train,
    "runs": runs,
    "evaluate": evaluate,
    "interpret": interpret,
    "report": report,
    "reproduce": reproduce,
    "predict": predict,
    "export": export,
    "bench": bench,
    "demo": demo,
}

# What a full disk, or a standard output that is full or closed, makes of a write.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without × and → shows ? for them
            stream.reconfigure(errors="replace")
    if arguments == ["--version"]:
        print(f"mixer {__version__}")
        return
    try:
        parse(arguments or ["--help"])()
        sys.stdout.flush()
    except MixerError as error:
        tell(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        tell("stopped")
        sys.exit(130)
    except BrokenPipeError:  # `mixer models | head` has read enough
        sys.stdout = None
        sys.exit(0)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        print(f"mixer: cannot write: {error.strerror}", file=sys.stderr)
        sys.stdout = None  # which would be tried again at the end
        sys.exit(1)


def _open_what_is_closed() -> None:
    """Replace standard streams that are closed: otherwise the next file to be opened would get the descriptor of one,
    and what is printed. Output to such a stream is refused, and messages go nowhere."""
    for name, access, mode in (("stdin", os.O_RDONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            lowest = os.open(os.devnull, access)
            setattr(sys, name, open(lowest, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def parse(arguments: list[str]) -> Callable[[], None]:
    """The command that `arguments` name, with its options bound.

    Raises:
        UsageError: An unknown command or option, or a value that does not fit, in one line instead of tyro's box.
    """
    arguments, changes = split_off_changes(arguments)
    check_spelling(arguments)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.extras.subcommand_cli_from_dict(
                {name: _later(command, changes) for name, command in COMMANDS.items()},
                prog="mixer",
                args=arguments,
                description="Image classification with MLP-Mixer.",
                config=(tyro.conf.FlagCreatePairsOff,),
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        command = f" {arguments[0]}" if arguments[0] in COMMANDS else ""
        raise UsageError(f"{_first_paragraph(printed.getvalue())} (`mixer{command} --help` says more)") from None


def check_spelling(arguments: list[str]) -> None:
    """Refuse unknown commands and options, with the nearest known one."""
    if not arguments or arguments[0].startswith("-"):
        return
    command = arguments[0]
    if command not in COMMANDS:
        raise UsageError(f"there is no command '{command}'{nearest(command, COMMANDS)} (`mixer --help` lists them)")
    takes = inspect.signature(COMMANDS[command]).parameters
    known = [f"--{name.replace('_', '-')}" for name in takes if name != "changes"]
    known.append("--help")
    for argument in arguments[1:]:
        option = argument.split("=")[0].replace("_", "-")
        if option == "--":
            return
        if option.startswith("--") and option not in known:
            if "changes" in takes and (homes := _homes_of(option)):
                raise UsageError(f"{command} has no option '{option}'; did you mean {' or '.join(homes)}?")
            raise UsageError(
                f"{command} has no option '{option}'{nearest(option, known)} (`mixer {command} --help` lists them)"
            )


def _homes_of(option: str) -> list[str]:
    """The options of a recipe with this name."""
    from mlpmixer.recipes import toml

    return [f"--{name}" for name in toml.fields() if name.split(".")[1] == option.removeprefix("--").replace("-", "_")]


def _first_paragraph(box: str) -> str:
    """The text between the title of tyro's box and its next rule; of an output in another form, all of it."""
    _, *paragraphs = re.split(r"(?m)^.*[─-]{5,}.*$", box)
    words = next((text for text in paragraphs if text.strip(" │|\n")), box)
    return " ".join(words.replace("│", " ").replace("|  ", " ").split()).rstrip(".|")


def _later(command: Callable[..., None], changes: dict[str, str]) -> Callable[..., Callable[[], None]]:
    """`command` with its options bound and not yet called; the parser sees the same signature, but for `changes`."""
    signature = inspect.signature(command)
    given = {"changes": changes} if "changes" in signature.parameters else {}

    @functools.wraps(command)
    def bind(*positional: object, **options: object) -> Callable[[], None]:
        return functools.partial(command, *positional, **options, **given)

    shown = [parameter for name, parameter in signature.parameters.items() if name not in given]
    bind.__signature__ = signature.replace(parameters=shown)  # pyright: ignore[reportAttributeAccessIssue]
    return bind


def split_off_changes(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Flags with a dot, such as `--optim.lr 0.003`, change a recipe; they go to the commands that take one."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None or "changes" not in inspect.signature(command).parameters:
        return arguments, {}
    rest, changes = [], {}
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if not re.fullmatch(r"--\w+\.\S+", flag):
            rest.append(word)
            continue
        if not equals and (value := next(words, None)) is None:
            raise UsageError(f"{flag} needs a value")
        changes[flag.removeprefix("--").replace("-", "_")] = value
    return rest, changes
