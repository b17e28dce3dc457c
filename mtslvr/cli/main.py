"""`mtslvr`: one group of all commands, each imported when it is called."""

from __future__ import annotations

import click

from .common import LazyGroup


@click.group(
    cls=LazyGroup,
    lazy={
        "embed": ".embed:embed_command",
        "merge": ".merge:merge_command",
        "classify": ".classify:classify_command",
        "similar": ".similar:similar_command",
        "plot": ".plot:plot_command",
        "fewshot": ".fewshot:fewshot_command",
        "invariance": ".invariance:invariance_command",
        "report": ".report:report_command",
        "models": ".models:models_command",
        "download": ".download:download_command",
        "push": ".push:push_command",
        "convert": ".convert:convert_command",
        "export": ".export:export_command",
        "pack": ".pack:pack_command",
        "train": ".train:train_command",
        "whiten": ".whiten:whiten_command",
    },
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="mtslvr")
def main() -> None:
    """Audio embeddings from pretrained MT-SLVR encoders."""


if __name__ == "__main__":
    from .process import mtslvr

    mtslvr()
