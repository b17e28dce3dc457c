"""What bfloat16 costs: error of the embeddings of the bundled weights, and few-shot accuracy where sets are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from model_card import ROOT, EvalSet, table

import mtslvr
from mtslvr.fewshot import CompareConfig, EpisodeConfig, compare, read_set

from . import candidates
from .plan import Plan

TITLE = "Error of bfloat16"
AUDIO = ROOT / "examples" / "audio"
NAMES = [name for name in candidates.ENGINES if name != "torch float32"]


def measure(plan: Plan) -> dict[str, Any]:
    """Errors, and accuracies on each set."""
    episodes = plan.pick(10_000, 100)
    return {
        "errors": plan.call(errors, plan.most),
        "accuracies": plan.call(accuracies, plan.most, sets=plan.sets, episodes=episodes) if plan.sets else {},
        "episodes": episodes,
    }


def errors() -> dict[str, Any]:
    """Of every window of the example audio, against torch float32 folded."""
    paths = sorted(path for path in AUDIO.rglob("*") if path.is_file())

    def windows(encoder: Any) -> Any:
        return np.concatenate([mtslvr.embed_windows(path, encoder=encoder)[0] for path in paths])

    wanted = windows(candidates.load("torch float32"))
    found = {"unfolded, torch float32": compared(windows(mtslvr.load(device="cpu", fold=False)), wanted)}
    absent = {}
    for name in NAMES:
        try:
            found[name] = compared(windows(candidates.load(name)), wanted)
        except candidates.Absent as error:
            absent[name] = str(error)
    return {"rows": found, "absent": absent, "windows": len(wanted), "files": len(paths)}


def compared(got: Any, wanted: Any) -> dict[str, float]:
    """Relative errors by row (norm of the difference over the norm) and the lowest cosine."""
    norms = np.linalg.norm(wanted, axis=1)
    relative = np.linalg.norm(got - wanted, axis=1) / norms
    cosine = (got * wanted).sum(axis=1) / (norms * np.linalg.norm(got, axis=1))
    return {"median": float(np.median(relative)), "largest": float(relative.max()), "cosine": float(cosine.min())}


def accuracies(sets: list[str], episodes: int) -> dict[str, Any]:
    """Mean and interval by set and engine, concat, logistic regression, on the same episodes."""
    torch.manual_seed(0)
    encoders = {}
    for name in candidates.ENGINES:
        try:
            encoders[name] = candidates.load(name)
        except candidates.Absent:
            continue  # the errors give the reason
    config = CompareConfig(features=("concat",), classifiers=("logistic",), episodes=[EpisodeConfig(episodes=episodes)])
    found: dict[str, Any] = {}
    for text in sets:
        eval_set = EvalSet.parse(text)
        labelled = read_set(eval_set.folder, label_field=eval_set.label_field)
        rows = compare([labelled], encoders, config, cache=False).rows
        found[eval_set.title] = {row.model: [row.result.mean, row.result.ci95] for row in rows}
    return found


def render(data: dict[str, Any]) -> str:
    """Errors, then accuracies."""
    found = data["errors"]
    rows = [["engine", "relative error, median", "largest", "lowest cosine"]]
    for name, told in found["rows"].items():
        rows.append([name, f"{told['median']:.1e}", f"{told['largest']:.1e}", f"{told['cosine']:.6f}"])
    parts = [
        f"Embeddings (both tasks) of the {found['windows']} windows of the {found['files']} files of examples/audio, "
        f"bundled weights, against torch float32, folded.",
        table(rows),
        *(f"{name}: not measured ({reason})." for name, reason in found["absent"].items()),
        accuracy_text(data["accuracies"], data["episodes"]),
    ]
    return "\n\n".join(parts)


def accuracy_text(accuracies: dict[str, Any], episodes: int) -> str:
    """A row a set."""
    if not accuracies:
        return "Few-shot accuracy: not measured, since no labelled audio was given (`--eval NAME=FOLDER`)."
    names = list(next(iter(accuracies.values())))
    rows = [["set", *names]]
    for title, found in accuracies.items():
        rows.append([title, *(f"{mean:.2f} ± {interval:.2f}" for mean, interval in found.values())])
    return (
        f"Few-shot accuracy in %, 5-way 1-shot, concat, logistic regression, the same {episodes:,} episodes for "
        f"all:\n\n{table(rows)}"
    )
