"""`mtslvr`: one group of all commands, each imported when it is called or helped on."""

from __future__ import annotations

import importlib

import click

# Each in a module of its name, as NAME_command; in the order of the help.
NAMES = (
    "embed", "merge", "classify", "similar", "plot", "fewshot", "invariance", "report", "models", "download", "push",
    "convert", "export", "pack", "train", "whiten",
)  # fmt: skip


class Commands(click.Group):
    """A group of the commands in NAMES."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in their order."""
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in NAMES:
            return None
        command: click.Command = getattr(importlib.import_module(f".{cmd_name}", __package__), f"{cmd_name}_command")
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="mtslvr")
def main() -> None:
    """Audio embeddings from pretrained MT-SLVR encoders."""


if __name__ == "__main__":
    from .process import mtslvr

    mtslvr()
