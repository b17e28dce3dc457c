"""Writes docs/cli.md from the commands themselves.

Run from the repository root after a change of an option: python docs/cli_reference.py
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import click

from mtslvr.cli.main import main

HEAD = """\
# Command line

Written by `python docs/cli_reference.py` from the commands themselves; `--help` after any of them says the same.
`mtslvr-embed` is `mtslvr embed`.

Completion of commands, options and paths in your shell:

```sh
_MTSLVR_COMPLETE=bash_source mtslvr > mtslvr-completion.bash
_MTSLVR_EMBED_COMPLETE=bash_source mtslvr-embed > mtslvr-embed-completion.bash
```

Source both from `~/.bashrc`. For zsh and fish ask for `zsh_source` and `fish_source`.
"""


def reference() -> str:
    """The whole page."""
    context = click.Context(main, info_name="mtslvr")
    commands = [(name, main.get_command(context, name)) for name in main.list_commands(context)]
    return "\n".join([HEAD, *(section(name, command) for name, command in commands if command)])


def section(name: str, command: click.Command) -> str:
    """One command."""
    arguments = [p.human_readable_name for p in command.params if isinstance(p, click.Argument)]
    optional = {p.human_readable_name for p in command.params if isinstance(p, click.Argument) and not p.required}
    marked = [f"[{a}]" if a in optional and a[0] != "[" else a for a in arguments]
    usage = " ".join(["mtslvr", name, "[OPTIONS]", *marked])
    rows = [row(param) for param in command.params if isinstance(param, click.Option) and not param.hidden]
    parts = [f"## `{usage}`", prose(command.help or "")]
    if rows:
        parts.append("\n".join(["| option | default | |", "|---|---|---|", *rows]))
    if command.epilog:
        parts.append(" ".join(prose(command.epilog).split()))
    return "\n\n".join(parts) + "\n"


def row(option: click.Option) -> str:
    """One line of the table."""
    name = ", ".join(f"`{text}`" for text in sorted(option.opts, key=len, reverse=True))
    if option.secondary_opts:
        name += ", " + ", ".join(f"`{text}`" for text in option.secondary_opts)
    if not option.is_flag:
        name += f" {values(option)}"
    text = " ".join((option.help or "").split())
    told = re.search(r"\s*\[default: (.*?)\]\s*|\s*Default: (.*?)\.?$", text)
    default = shown(option.default) if option.show_default else ""
    if told:
        default, text = told.group(1) or told.group(2), text.replace(told.group(0), "")
    required = "required" if option.required else default
    return f"| {name} | {required} | {text} |".replace("  ", " ")


def values(option: click.Option) -> str:
    """What an option takes."""
    if isinstance(option.type, click.Choice):
        return " \\| ".join(f"`{choice}`" for choice in option.type.choices)
    if option.metavar:
        return f"*{option.metavar}*".replace("|", "\\|")
    kinds: dict[str, str] = {"float": "number", "integer": "whole number"}
    return f"*{kinds.get(option.type.name, option.type.name)}*"


def shown(default: Any) -> str:
    """A default as a reader would type it."""
    if isinstance(default, (list, tuple)):
        return ", ".join(f"`{value}`" for value in default)
    plain = isinstance(default, (str, int, float)) and not isinstance(default, bool)
    return f"`{default}`" if plain else ""


def prose(text: str) -> str:
    """Help text as Markdown."""
    text = inspect.cleandoc(text).replace("\b\n", "").replace("\b", "")
    return re.sub(r"\n(?!\n)(?<!\n\n)", " ", text).replace("  ", " ").strip()


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(reference(), encoding="utf-8")
