"""The command `mixer`: parse, call one function, print. Nothing here imports torch before a command runs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import inspect
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata
from typing import Annotated, Any, get_args, get_type_hints

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
from mlpmixer.cli.serve import serve
from mlpmixer.cli.train import train
from mlpmixer.errors import MixerError, UsageError, nearest
from mlpmixer.machine.cores import limit_threads
from mlpmixer.version import __version__

COMMANDS: dict[str, Callable[..., None]] = {
    "doctor": doctor,
    "pack": pack,
    "demo": demo,
    "recipes": recipes,
    "train": train,
    "runs": runs,
    "evaluate": evaluate,
    "report": report,
    "interpret": interpret,
    "reproduce": reproduce,
    "models": models,
    "predict": predict,
    "export": export,
    "serve": serve,
    "bench": bench,
}
GROUPS = {"data": "doctor", "train": "demo", "evaluate": "evaluate", "use": "models"}  # each with its first command

EXAMPLES = (
    "mixer predict photo.jpg",
    "mixer train photos --data.source FOLDER",
    "mixer export runs/photos --to onnx",
)

# Defaults of which the help says nothing: what they mean stands in the text.
SAY_NOTHING = ("", "''", "None", "False", "-1")

# What a full disk, or a standard output that is full or closed, makes of a write.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    _open_what_is_closed()
    limit_threads()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without × and → shows ? for them
            stream.reconfigure(errors="replace")
    try:
        parse(arguments)()
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
    """What `arguments` ask for: a command with its options bound, or help, or the version.

    Raises:
        UsageError: An unknown command or option, or a value that does not fit, in one line instead of tyro's box.
    """
    match arguments:
        case [] | ["help"] | ["-h" | "--help", *_]:
            return show_overview
        case ["version"] | ["-V" | "--version"]:
            return functools.partial(print, f"mixer {__version__}")
        case ["help", name, *_]:
            arguments = [name, "--help"]
    arguments, changes = split_off_changes(arguments)
    check_spelling(arguments)
    name, *rest = arguments
    if {"-h", "--help"} & {*rest}:
        print(_description(COMMANDS[name]), end="\n\n")
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                _later(COMMANDS[name], changes),
                prog=f"mixer {name}",
                description="",
                args=rest,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        why = _first_paragraph(printed.getvalue())
        if missing := re.match(r"Missing from mixer \w+: ((?:--\S+ )?\S+) (.+?)\.? *\(required\)", why):
            why = f"{name} needs {missing[1]}: {missing[2][0].lower()}{missing[2][1:]}"
        raise UsageError(f"{why} (`mixer {name} --help` says more)") from None


def show_overview() -> None:
    """All commands in groups, a line each."""
    print(f"mixer {__version__}: image classification with MLP-Mixer (mixer help COMMAND)")
    first = {name: group for group, name in GROUPS.items()}
    for name, command in COMMANDS.items():
        if name in first:
            print()
        print(f"{first.get(name, ''):8}  {name:9}  {summary(command)}")
    print()
    for title, line in zip(("examples", "", ""), EXAMPLES, strict=True):
        print(f"{title:8}  {line}")
    print(f"docs      {docs_address()}")


def summary(command: Callable[..., None]) -> str:
    """The first sentence of a command's help, without its full stop."""
    return (inspect.getdoc(command) or "").splitlines()[0].rstrip(".")


def docs_address() -> str:
    """Where the documentation is, as the package's metadata has it."""
    try:
        addresses = metadata("mlpmixer").get_all("Project-URL") or []
    except PackageNotFoundError:
        addresses = []
    named = dict(address.split(", ", 1) for address in addresses)
    return named.get("Documentation", "docs/ in the source repository")


def _description(command: Callable[..., None]) -> str:
    """What the command does, in lines that fit the terminal."""
    width = min(120, shutil.get_terminal_size().columns)
    paragraphs = (inspect.getdoc(command) or "").partition("\nArgs:")[0].strip().split("\n\n")
    return "\n\n".join(textwrap.fill(paragraph, width, break_on_hyphens=False) for paragraph in paragraphs)


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
            if "changes" in takes and (meant := _meant_by(option)):
                raise UsageError(f"{command} has no option '{option}'; did you mean {' or '.join(meant)}?")
            raise UsageError(
                f"{command} has no option '{option}'{nearest(option, known)} (`mixer {command} --help` lists them)"
            )


def _meant_by(option: str) -> list[str]:
    """The options that someone means who writes a line of a recipe without its table, or as other programs call it."""
    from mlpmixer.recipes import toml

    return [f"--{name}" for name in toml.meant_by(option.removeprefix("--").replace("-", "_"))]


def _first_paragraph(box: str) -> str:
    """The text between the title of tyro's box and its next rule; of an output in another form, all of it."""
    _, *paragraphs = re.split(r"(?m)^.*[─-]{5,}.*$", box)
    words = next((text for text in paragraphs if text.strip(" │|\n")), box)
    return " ".join(words.replace("│", " ").replace("|  ", " ").split()).rstrip(".|")


def _later(command: Callable[..., None], changes: dict[str, str]) -> Callable[..., Callable[[], None]]:
    """`command` with its options bound and not yet called; the parser sees the same signature, but for `changes`."""
    signature = inspect.signature(command)
    given = {"changes": changes} if "changes" in signature.parameters else {}

    def bind(*positional: object, **options: object) -> Callable[[], None]:
        return functools.partial(command, *positional, **options, **given)

    shown = [parameter for name, parameter in signature.parameters.items() if name not in given]
    # Each option's help in one line: tyro keeps the ends of lines that a docstring has within it.
    bind.__doc__ = re.sub(r"\n {8,}", " ", inspect.getdoc(command) or "")
    hints = get_type_hints(command, include_extras=True)
    bind.__annotations__ = {one.name: _described(hints[one.name], one) for one in shown}
    bind.__signature__ = signature.replace(  # pyright: ignore[reportAttributeAccessIssue]
        parameters=[one.replace(annotation=bind.__annotations__[one.name]) for one in shown]
    )
    return bind


def _described(kind: Any, parameter: inspect.Parameter) -> Any:
    """The type of an argument for the parser: brackets around one that may be left out, and no default that says
    nothing."""
    marks = getattr(kind, "__metadata__", ())
    (given,) = [mark for mark in marks if hasattr(mark, "metavar") and hasattr(mark, "aliases")] or [tyro.conf.arg()]
    changes: dict[str, Any] = {"help_behavior_hint": _default_in_words}
    optional = parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is not parameter.empty
    if optional and given.metavar:
        changes["metavar"] = f"[{given.metavar}]"
    others = [mark for mark in marks if mark is not given]
    return Annotated[get_args(kind)[0] if marks else kind, *others, dataclasses.replace(given, **changes)]


def _default_in_words(value: str) -> str:
    return "" if value in SAY_NOTHING else f"(default: {value})"


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
