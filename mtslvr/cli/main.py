"""`mtslvr`: one group of all commands, each imported when it is called or helped on."""

from __future__ import annotations

import difflib
import importlib

import click

# Names in the order of the help, and the module where NAME_command is.
MODULES = {
    "embed": "embed", "merge": "embed", "classify": "classify", "similar": "explore", "plot": "explore",
    "fewshot": "measure", "invariance": "measure", "report": "measure", "models": "models", "download": "models",
    "push": "models", "convert": "models", "export": "models", "pack": "train", "train": "train", "whiten": "train",
}  # fmt: skip
NAMES = tuple(MODULES)


class Commands(click.Group):
    """A group of the commands in NAMES."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in their order."""
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in MODULES:
            return None
        module = importlib.import_module(f".{MODULES[cmd_name]}", __package__)
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called; of a wrong name the message tells the near ones."""
        near = [] if args[0] in NAMES or ctx.resilient_parsing else difflib.get_close_matches(args[0], NAMES)
        if near:
            ctx.fail(f"No such command {args[0]!r}. Did you mean {' or '.join(near)}?")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mtslvr")
def main() -> None:
    """Audio embeddings from pretrained MT-SLVR encoders."""


if __name__ == "__main__":
    from .process import mtslvr

    mtslvr()
