"""RESULTS.md from the records of the sections."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Any

import soundfile
from model_card import table

from mtslvr.run.machine import environment

from . import targets

SECTIONS = ("engines", "parts", "busy", "decode", "folder", "length", "count", "bf16", "gpu")
LIBRARIES = ("soundfile", "soxr")


def facts() -> dict[str, Any]:
    """Machine and versions: `environment`, and the libraries whose speed is measured here."""
    found = environment()
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["libsndfile"] = soundfile.__libsndfile_version__
    return found


def render(records: dict[str, dict[str, Any]]) -> str:
    """The whole file; sections without a record say so."""
    parts = [
        "# Results: speed and memory",
        "Written by `python benchmarks/run.py`; every figure is measured by it, with audio that it makes. Speeds that "
        "are compared were measured side by side, in alternation. Accuracy: see the README and "
        "weights/parallel-simclr-v2/README.md.",
        environments(records),
        "## Targets",
        targets.render(records),
    ]
    for name in SECTIONS:
        section = importlib.import_module(f"speed.{name}")
        parts += [f"## {section.TITLE}", body(section, records.get(name)), footer(records.get(name))]
    return "\n\n".join(part for part in parts if part) + "\n"


def body(section: Any, record: dict[str, Any] | None) -> str:
    """What a section has to tell."""
    if record is None:
        return "Not measured."
    if "error" in record:
        return f"Not measured: it failed ({record['error']})."
    text: str = section.render(record["data"])
    return text


def footer(record: dict[str, Any] | None) -> str:
    """When, where from, how busy the machine was."""
    if record is None:
        return ""
    quick = " Quick run: its figures mean nothing." if record["quick"] else ""
    return (
        f"*Commit {record['environment']['git_revision'][:12]}, {record['date']}, seed {record['seed']}, "
        f"{record['seconds']:.0f} s; load average before it {record['load']:.1f}.{quick}*"
    )


def environments(records: dict[str, dict[str, Any]]) -> str:
    """Machine and versions; a column for each that differs in more than the commit."""
    columns: list[dict[str, Any]] = []
    sections: list[list[str]] = []
    for name, record in records.items():
        found = {key: value for key, value in record["environment"].items() if key != "git_revision"}
        if found not in columns:
            columns.append(found)
            sections.append([])
        sections[columns.index(found)].append(name)
    if not columns:
        return "Nothing was measured."
    heading = ["all sections"] if len(columns) == 1 else [", ".join(names) for names in sections]
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [["", *heading]]
    rows += [[key, *(str(column.get(key) or "none") for column in columns)] for key in keys]
    return table(rows)
