"""What all commands share: words, options, and errors to exit codes."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from ..errors import CheckpointError, ConfigError, HubError, MTSLVRError

EXIT_SOME_FAILED, EXIT_USAGE, EXIT_NO_WEIGHTS, EXIT_NO_AUDIO, EXIT_INTERRUPTED = 1, 2, 3, 4, 130
EXIT_CODES = "Exit codes: 0 done, 2 wrong usage or input, 3 weights unavailable, 130 interrupted, 143 ended by SIGTERM."
PATH = click.Path(path_type=Path)
FORMATS = click.Choice(["npz", "npy", "parquet", "csv", "jsonl"])  # of embeddings
# Control characters, line breaks among them, bytes that are no text, and how Python writes them.
_CONTROLS = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160), *range(0xDC80, 0xDD00))}
FC = TypeVar("FC", bound=Callable[..., Any])


class Failure(click.ClickException):
    """An error message with an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(printable(message))
        self.exit_code = exit_code  # type: ignore[misc]  # click's own way to set it


def choice(name: str, values: list[str], help: str) -> Callable[[FC], FC]:
    """An option that is one of some words, the first by default."""
    return click.option(name, type=click.Choice(values), default=values[0], show_default=True, help=help)


def channel(text: str) -> int | str:
    """The value of --channel."""
    return int(text) if text.isdecimal() else text


def options(*options: Callable[[FC], FC]) -> Callable[[FC], FC]:
    """Several options at once."""

    def add(command: FC) -> FC:
        for option in reversed(options):
            command = option(command)
        return command

    return add


DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 ...")
LAYER = choice(
    "--layer",
    ["head", "pooled"],
    "Read after the linear head (500 a task) or before it (512 as published; of the bundled model 1536 invariant, 896 "
    "variant, 2432 together).",
)
# Of every command that embeds recordings; channel and dtype are None where they are not given.
EMBEDDING = options(
    click.option("--model", help="Bundled name, checkpoint folder or hub id.  [default: the bundled weights]"),
    click.option(
        "--channel", type=channel, metavar="mix|N", help="Of channels: their mean, or one, from 0.  [default: mix]"
    ),
    DEVICE,
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16"]),
        help="bfloat16 is faster where the processor has it, and rounded to 8 bits.  [default: float32]",
    ),
    click.option("--batch-size", default=32, show_default=True, help="Windows at once through the encoder."),
    click.option("--threads", default=2, show_default=True, help="Files decoded side by side."),
    choice("--on-error", ["skip", "stop"], "Go on after a file that cannot be read, or end there."),
    choice("--on-truncated", ["embed", "error"], "Embed what is there of a recording cut short, or call it broken."),
)


def printable(line: str) -> str:
    """The line with control characters, which file names may hold and a terminal would obey, as Python writes them."""
    return line.translate(_CONTROLS)


def echo(line: str, err: bool = False) -> None:
    """Print a line in which file names may be any bytes: these bytes for a program, printable for a person."""
    if err or (sys.stdout and sys.stdout.isatty()):
        click.echo(printable(line), err=err)
    else:
        click.echo(os.fsencode(line))


def counted(number: int, thing: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def check_stdout() -> None:
    """Raise a ConfigError where standard output, to which the result is to go, is closed."""
    if sys.stdout is None:
        raise ConfigError("standard output is closed, and the result goes there; redirect it to a file")


@contextmanager
def warnings_as_lines(translate: Callable[[str], str] = str) -> Iterator[None]:
    """Each warning once, as a line on stderr without its place in the code."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        text = translate(str(message))
        if text not in seen:
            seen.add(text)
            echo(f"warning: {text}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show  # catch_warnings restores it
        yield


class Command(click.Command):
    """A command whose mtslvr errors become one line on stderr and an exit code; so do warnings, without one.

    Where `checkpoint_is_input`, one that cannot be read is wrong input, and not weights that are unavailable.
    """

    def __init__(
        self, name: str, *, epilog: str = EXIT_CODES, checkpoint_is_input: bool = False, **kwargs: Any
    ) -> None:
        self._no_weights = EXIT_USAGE if checkpoint_is_input else EXIT_NO_WEIGHTS
        epilog = epilog.replace(" 3 weights unavailable,", "") if checkpoint_is_input else epilog
        if any("--out" in param.opts for param in kwargs.get("params") or ()):
            # It was called --output before 0.3, which is still understood.
            renamed = {"token_normalize_func": lambda token: "out" if token == "output" else token}
            kwargs["context_settings"] = {**kwargs.get("context_settings", {}), **renamed}
        super().__init__(name, epilog=epilog, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the arguments."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.message = printable(error.message)  # type: ignore[misc]  # names of files that a shell filled in
            raise

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            with warnings_as_lines(self.in_options):
                return super().invoke(ctx)
        except (HubError, CheckpointError) as error:
            raise Failure(self.in_options(str(error)), self._no_weights) from error
        except MTSLVRError as error:
            raise Failure(self.in_options(str(error)), EXIT_USAGE) from error
        except KeyboardInterrupt:
            raise Failure("interrupted", EXIT_INTERRUPTED) from None

    def in_options(self, message: str) -> str:
        """The message with options in the place of Python's names: `--window -1` for `window_seconds=-1.0`."""
        named = [name for option in self.params for name in option.opts if name.startswith("--")]
        options = {name[2:].replace("-", "_"): name for name in named}
        options |= {f"{name}_seconds": option for name, option in options.items()}
        options.setdefault("channels", options.get("channel", "channels"))

        def translated(found: re.Match[str]) -> str:
            name, value = found["name"], found["value"]
            if name not in options or (value is None and "_" not in name):
                return found[0]
            return options[name] + ("" if value in (None, "True") else f" {value.strip(chr(39)).removesuffix('.0')}")

        return re.sub(r"(?<![^\s(])(?P<name>[a-z_]+)\b(=(?P<value>'[^']*'|[^\s:;,)]+))?", translated, message)
