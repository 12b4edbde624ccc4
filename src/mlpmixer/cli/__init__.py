"""The command `mixer`: parse, call one function, print. Nothing here imports torch before a command runs."""

from __future__ import annotations

import inspect
import sys

import tyro

from mlpmixer import __version__
from mlpmixer.cli.demo import demo
from mlpmixer.cli.models import models
from mlpmixer.cli.predict import predict
from mlpmixer.errors import MixerError, UsageError, nearest

COMMANDS = {"models": models, "predict": predict, "demo": demo}


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments == ["--version"]:
        print(f"mixer {__version__}")
        return
    try:
        check_spelling(arguments)
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="mixer",
            args=arguments or ["--help"],
            description="Image classification with MLP-Mixer.",
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except MixerError as error:
        print(f"mixer: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("mixer: stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `mixer models | head` has read enough
        sys.stdout = None
        sys.exit(0)


def check_spelling(arguments: list[str]) -> None:
    """One line for an unknown command or option, where the parser would draw a box."""
    if not arguments or arguments[0].startswith("-"):
        return
    command = arguments[0]
    if command not in COMMANDS:
        raise UsageError(f"there is no command '{command}'{nearest(command, COMMANDS)} (`mixer --help` lists them)")
    known = [f"--{name.replace('_', '-')}" for name in inspect.signature(COMMANDS[command]).parameters]
    known.append("--help")
    for argument in arguments[1:]:
        option = argument.split("=")[0].replace("_", "-")
        if option == "--":
            return
        if option.startswith("--") and option not in known:
            raise UsageError(
                f"{command} has no option '{option}'{nearest(option, known)} (`mixer {command} --help` lists them)"
            )
