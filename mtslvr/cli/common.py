"""What all commands share: errors to exit codes, commands imported when they are called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from ..errors import CheckpointError, HubError, MTSLVRError

EXIT_OK, EXIT_SOME_FAILED, EXIT_USAGE, EXIT_NO_WEIGHTS, EXIT_NO_AUDIO, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130


class Failure(click.ClickException):
    """An error message with an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click's own way to set it


class Command(click.Command):
    """A command whose mtslvr errors become one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (HubError, CheckpointError) as error:
            raise Failure(str(error), EXIT_NO_WEIGHTS) from error
        except MTSLVRError as error:
            raise Failure(str(error), EXIT_USAGE) from error
        except KeyboardInterrupt:
            raise Failure("interrupted", EXIT_INTERRUPTED) from None


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called or helped on."""

    def __init__(self, *args: Any, lazy: dict[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order given."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self.lazy:
            return None
        module, attribute = self.lazy[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(module, __package__), attribute)
        return command
