r"""Measure a checkpoint and write its model card.

    python benchmarks/model_card.py weights/NAME --run runs/final --corpus CORPUS/REPORT.md \
        --eval esc50-val=FOLDER --eval fsdd-digit=FOLDER --eval fsdd-speaker=FOLDER:1 \
        --eval letters=CORPUS/report-sets/letters ... --held-back benchmarks/runs/heldback-VERSION.json

Without --run and --eval it only puts the figures of held-back sets into the card that is there. Every figure in both
files comes from here: few-shot accuracies are measured, facts of the training are read from the run directory, the
sources of its audio from the report of the corpus. What is read of the run is kept in benchmarks/runs; the figures of
held-back sets, which are measured elsewhere, once a release, lie there too. Beside the model stand the same network
without training, under heads made alike, and the heads without spectral statistics. The records of the weights of 0.2
are of that version's settings: its own script wrote their card.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCardData

import mtslvr
from mtslvr.config import EncoderConfig, Rows
from mtslvr.fewshot import CompareConfig, EpisodeConfig, FewShotResult, compare, read_set
from mtslvr.fewshot.features import LOG_MEL
from mtslvr.fewshot.results import markdown as table
from mtslvr.models.checkpoint import CONFIG_NAME, WEIGHTS_NAME, read_config
from mtslvr.nn.encoder import Encoder
from mtslvr.run.machine import environment
from mtslvr.training import run as run_directory
from mtslvr.training.augment import Pitch
from mtslvr.training.config import TrainConfig
from mtslvr.training.whiten import whiten

ROOT = Path(__file__).resolve().parent.parent

# What the sets are that the recipe was chosen by, and the report sets of the corpus; another name stands for itself.
TITLES = {
    "esc50-val": "ESC-50, the five validation classes of MetaAudio's split",
    "fsdd-digit": "Free Spoken Digit Dataset, digits",
    "fsdd-speaker": "Free Spoken Digit Dataset, speakers",
    "callers": "Telephone calls with a wake-up word, by caller",
    "keywords": "Spoken keywords, by keyword",
    "languages": "Words and phrases of a learning game, by language",
    "letters": "Spoken letters and syllables, by language",
    "materials": "Impacts, by material",
    "programs": "Notes rendered with a soundfont, by instrument",
}
# By accuracies on these the settings of the recipe were chosen; others only report.
CHOOSING = ("esc50-val", "fsdd-digit", "fsdd-speaker")
CLASSIFIERS = {"logistic": "logistic regression", "sgd": "published classifier (SGD)"}
EMBEDDINGS = ("invariant", "variant", "concat")
MODEL, PLAIN, UNTRAINED = "model", "without statistics", "untrained"
UNTRAINED_PLAIN = f"{UNTRAINED}, {PLAIN}"
MEASURED = {  # of each model, which features
    MODEL: EMBEDDINGS,
    PLAIN: ("variant", "concat"),
    UNTRAINED: EMBEDDINGS,
    UNTRAINED_PLAIN: ("variant",),
    "": ("log-mel",),
}
BASELINES = ("untrained", "log-mel")  # of the held-back sets
SHOTS = (1, 5)
HELD_BACK = "held-back"
NOTES = "notes.txt"


def started_from(init: str) -> str:
    """A checkpoint of this repository by its place there, and another run, in a folder of that machine, as such."""
    path = Path(init) if Path(init).is_absolute() else ROOT / init
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT / "weights") else "another run"


@dataclass(frozen=True)
class EvalSet:
    """One `--eval NAME=FOLDER[:label_field]`."""

    name: str
    folder: Path
    label_field: int | None = None

    @classmethod
    def parse(cls, text: str) -> EvalSet:
        """The set that an argument names."""
        match = re.fullmatch(r"([^=]+)=(.+?)(?::(-?\d+))?", text)
        if match is None:
            raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=FOLDER or NAME=FOLDER:FIELD")
        name, folder, field = match.groups()
        return cls(name, Path(folder), None if field is None else int(field))

    @property
    def title(self) -> str:
        """For readers."""
        return TITLES.get(self.name, self.name)


@dataclass(frozen=True)
class Measured:
    """One set's accuracies, results[classifier, shots][label]; a label names features, and a model before them."""

    eval_set: EvalSet
    classes: int
    clips: int
    results: dict[tuple[str, int], dict[str, FewShotResult]]


@dataclass(frozen=True)
class Run:
    """What a run directory tells of a training."""

    config: TrainConfig
    environment: dict[str, Any]
    steps_done: int
    hours: float
    losses: dict[str, float]
    pool_clips: int
    pool_hours: float
    notes: tuple[str, ...] = ()  # what happened to it, for readers: the lines of notes.txt

    @classmethod
    def read(cls, folder: Path) -> Run:
        """From a run directory."""
        config = TrainConfig.from_dict(json.loads((folder / "config.json").read_text()))
        environment = json.loads((folder / "environment.json").read_text())
        environment["data"] = [Path(data).name for data in environment.get("data", [])]
        with open(folder / "losses.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if all(row.values())]
        last = rows[-50:]
        clips = json.loads((Path(environment.pop("clips", folder / "clips")) / "clips.json").read_text())
        if "init" in environment:
            environment["init"] = started_from(environment["init"])
        return cls(
            config=config,
            environment=environment,
            steps_done=int(rows[-1]["step"]) + 1,
            hours=sum(config.batch_size / float(row["clips_per_second"]) for row in rows) / 3600,
            losses={k: sum(float(row[k]) for row in last) / len(last) for k in ("contrastive", "predictive")},
            pool_clips=len(clips["names"]),
            pool_hours=sum(clips["lengths"]) / clips["sample_rate"] / 3600,
            notes=tuple((folder / NOTES).read_text().splitlines()) if (folder / NOTES).exists() else (),
        )


def measure(eval_set: EvalSet, models: dict[str, Path], config: EpisodeConfig, device: str, work: Path) -> Measured:
    """All features of all models with each classifier, on the same episodes; what `work` has is not measured again."""
    labelled = read_set(eval_set.folder, label_field=eval_set.label_field, name=eval_set.name)
    results: dict[tuple[str, int], dict[str, FewShotResult]] = {}
    for model, features in MEASURED.items():
        if model and model not in models:
            continue
        key = digest(models[model] if model else None, labelled.labels.tolist(), config)
        kept = work / f"{eval_set.name}-{slug(model or LOG_MEL)}-{key}.json"
        if not kept.exists():
            episodes = [dataclasses.replace(config, n_shot=n_shot) for n_shot in SHOTS]
            settings = CompareConfig(features, tuple(CLASSIFIERS), episodes)
            encoders = {model: mtslvr.load(models[model], device=device)} if model else {}
            found = [(row.features, row.classifier, row.result) for row in compare([labelled], encoders, settings)]
            rows = [(*names, dataclasses.replace(result, accuracies=[]).__dict__) for *names, result in found]
            write(kept, json.dumps(rows))
        for name, classifier, stored in json.loads(kept.read_text()):
            label, result = name if model in (MODEL, "") else f"{name}, {model}", FewShotResult(**stored)
            shots = result.settings["n_shot"]
            results.setdefault((classifier, shots), {})[label] = result
            print(f"{eval_set.name}  {classifier:8}  {shots}  {label:40}  {result}", file=sys.stderr)
    facts = labelled.facts()
    return Measured(eval_set, facts["classes"], facts["clips"], results)


def slug(name: str) -> str:
    """A model's name as a part of file names."""
    return name.replace(",", "").replace(" ", "-")


def digest(checkpoint: Path | None, *settings: object) -> str:
    """Hexadecimal digits that stand for a checkpoint and what is done with it."""
    weights = (checkpoint / WEIGHTS_NAME).read_bytes() + (checkpoint / CONFIG_NAME).read_bytes() if checkpoint else b""
    return hashlib.sha256(weights + repr(settings).encode()).hexdigest()[:12]


def compared(checkpoint: Path, run: Path, work: Path) -> dict[str, Path]:
    """The model, and those of `MEASURED` beside it, whose heads are made in `work` of the run's clips."""
    config = run_directory.read_config(run)
    models = {MODEL: checkpoint}
    if config.heads is None:
        return models
    random = work / "random"
    random.mkdir(exist_ok=True)
    shutil.copy(run / run_directory.CONFIG, random)
    facts = run_directory.recorded(run)
    clips = (run / facts.get("clips", run_directory.CLIPS)).resolve()
    run_directory.write_json(random / run_directory.ENVIRONMENT, {**facts, "clips": str(clips)})
    torch.manual_seed(0)
    Encoder(config.encoder).eval().save(random / run_directory.EXPORT)
    wanted = {UNTRAINED: (random, config.heads)}
    if config.heads.spectral_statistics:
        plain = dataclasses.replace(config.heads, spectral_statistics=False)
        wanted |= {UNTRAINED_PLAIN: (random, plain), PLAIN: (run, plain)}
    for name, (source, heads) in wanted.items():
        weights = run / run_directory.EXPORT if source == run else None  # the others are drawn, from seed 0
        models[name] = work / f"{slug(name)}-{digest(weights, config.encoder, heads)}"
        if not models[name].exists():
            whiten(source, models[name], heads)
    return models


def scalings(measured: Measured) -> str:
    """What was done to the rows before the classifiers."""
    said = {"l2": "brought to length 1", "none": "taken as they are", "standard": "standardised by the supports"}
    told = []
    for classifier in CLASSIFIERS:
        by_name = measured.results[classifier, SHOTS[0]]
        ours, baseline = (by_name[name].settings["scaling"] for name in ("concat", "log-mel"))
        if ours == baseline:
            told.append(f"{CLASSIFIERS[classifier]}: all rows {said[ours]}")
        else:
            told.append(f"{CLASSIFIERS[classifier]}: embeddings {said[ours]}, log-mel rows {said[baseline]}")
    return "; ".join(told)


def measured_with(config: EpisodeConfig, first: Measured) -> str:
    """Settings, versions and machine of the evaluation, as a sentence."""
    here = environment()
    revision = here["git_revision"]
    parts = [
        f"{config.n_way}-way {'- and '.join(map(str, SHOTS))}-shot, {config.n_query} query a class, "
        f"{config.episodes:,} episodes, seed {config.seed}; accuracy in % ± 95% interval over clips",
        scalings(first),
        "log-mel: mean and standard deviation of each mel band over time, no training",
        "untrained: the network with random weights (seed 0), under heads made of the same clips in the same way",
        "without statistics: heads that read what was learned alone, not how loud each mel band is",
        f"measured with mtslvr {here['mtslvr']}, torch {here['torch']}, NumPy {here['numpy']}, "
        f"Python {here['python']} on {here['cpu']}, "
        f"{here['cores']} cores" + (f", {here['cuda']}" if here["cuda"] else ", no GPU"),
    ]
    if revision != "unknown":
        parts[-1] += f", commit {revision[:12]}"
    return ". ".join(part[0].upper() + part[1:] for part in parts) + "."


def results_of_set(measured: Measured) -> str:
    """One set: features down, classifiers and shots across."""
    columns = list(measured.results)
    names = dict.fromkeys(name for column in columns for name in measured.results[column])
    rows = [["features", *(f"{CLASSIFIERS[classifier]}, {shots}-shot" for classifier, shots in columns)]]
    rows += [[name, *(str(measured.results[column][name]) for column in columns)] for name in names]
    heading = f"### {measured.eval_set.title}\n\n`{measured.eval_set.name}`: {measured.classes} classes, "
    role = "Settings were chosen by it." if measured.eval_set.name in CHOOSING else "No setting was chosen by it."
    return f"{heading}{measured.clips:,} clips. {role}\n\n{table(rows)}"


def held_back(record: dict[str, Any], model: str) -> str:
    """The section on sets that were measured once, on released weights, from its record in benchmarks/runs."""
    names = list(record["sets"][0]["accuracies"]["sgd"])
    rows = [["set", "classifier", *(f"{n} (baseline)" if n in BASELINES else n for n in names)]]
    for each in record["sets"]:
        title = f"{each['title']} ({each['clips']:,} clips)"
        for classifier, found in each["accuracies"].items():
            cells = [f"{found[n][0]:.2f} ± {found[n][1]:.2f}" for n in names]
            rows.append([title, CLASSIFIERS[classifier], *cells])
    paper, linear, how = record["paper"], record["linear"], record["measured"]
    before = "" if record["model"] == model else f", which are `{record['model']}`, not these"
    beside = ", ".join(f"{name} {value:.2f}" for name, value in paper["rows"].items())
    rows_of_linear = ", ".join(f"{name} {value:.1f}" for name, value in linear["accuracies"].items())
    return f"""### Held back: sets that only report

No setting was chosen by these, and their audio was not trained on. Measured once, on the weights of release
{record["release"]}{before}, by `{how["command"]}`, commit {how["commit"]}, on {how["date"]} ({how["versions"]},
{how["machine"]}). {how["n_way"]}-way {how["n_shot"]}-shot, {how["n_query"]} query a class, {how["episodes"]:,}
episodes, seed {how["seed"]}; accuracy in % ± interval ({how["interval"]}).

{table(rows)}

Beside the paper, on the same ten classes of ESC-50 and with its classifier: {beside} ({paper["note"]}).
{record["overlap"]}

{linear["set"][0].upper() + linear["set"][1:]}, {linear["protocol"]}: {rows_of_linear} %."""


def with_held_back(card: str, record: dict[str, Any], model: str) -> str:
    """A card with that section, in place of an earlier one or before the section on training."""
    if HELD_BACK not in card:
        before, heading, after = card.partition("## Training\n")
        card = f"{before}<!-- {HELD_BACK} -->\n<!-- /{HELD_BACK} -->\n\n{heading}{after}"
    return replace_block(card, HELD_BACK, held_back(record, model))


def machine_of(run: Run) -> str:
    """Where a run took place."""
    env = run.environment
    return env["cuda"] or f"a CPU ({env.get('cpu', env['machine'])}, {env['cores']} cores)"


def training_table(run: Run) -> str:
    """What was trained, and how."""
    return table([["setting", "value"], *map(list, training_settings(run).items())])


def training_settings(run: Run) -> dict[str, str]:
    """One run's."""
    config, env = run.config, run.environment
    augment = config.augment
    published = augment.pitch is Pitch.PUBLISHED_RATIOS
    pitch = "14 published ratios" if published else f"±{augment.pitch_semitones:g} semitones"
    steps = f"{run.steps_done:,}" + ("" if run.steps_done == config.steps else f", of a schedule of {config.steps:,}")
    return {
        "encoder": f"ResNet-18, adapter {config.encoder.adapter.value}, {config.encoder.frontend.channels} channels, "
        f"{config.encoder.heads} heads of {config.encoder.head_dim}",
        "contrastive objective": f"{config.contrastive}, temperature {config.temperature:g}"
        if config.contrastive != "none"
        else "none",
        "weight of augmentation prediction (lambda)": f"{config.augmentation_weight:g}"
        + (", on one of two views" if config.augmentation_weight and config.predicted_views == 1 else ""),
        "views of a clip": "2, each of its own crop" if config.crops == 2 else "2, of one crop",
        "background": f"another clip in {100 * config.mix_probability:g}% of the views, {config.mix_snr_db[0]:g} to "
        f"{config.mix_snr_db[1]:g} dB below"
        if config.mix_probability
        else "none",
        "equaliser": f"{config.equalizer_db:g} dB" if config.equalizer_db else "none",
        "exponent of source balance": f"{config.source_balance:g}",
        "transformations": ", ".join(augment.transformations),
        "pitch shift": pitch,
        "steps": steps,
        "batch": f"{config.batch_size} clips",
        "clips seen": f"{run.steps_done * config.batch_size:,}",
        "audio in the pool": f"{run.pool_clips:,} clips, {run.pool_hours:.1f} h",
        "crop": f"{config.crop_seconds:g} s",
        "optimiser": f"{'Adam' if config.optimizer == 'adam' else 'AdamW'}, learning rate {config.learning_rate:g}, "
        f"weight decay {config.weight_decay:g}, "
        f"{config.warmup_steps} steps of warm-up, cosine to 0",
        "exported": f"running mean of the weights, decay {config.ema_decay:g}" if config.ema_decay else "last weights",
        "dtype": {"bfloat16": "bfloat16 autocast"}.get(env["dtype"], env["dtype"]),
        "seed": str(config.seed),
        "losses, mean of the last 50 steps": ", ".join(f"{k} {v:.3f}" for k, v in run.losses.items()),
        "duration": f"{run.hours:.2f} h, the steps in losses.csv together",
        "machine": machine_of(run),
        "versions": f"mtslvr {env['mtslvr']}, torch {env['torch']}, NumPy {env['numpy']}, Python {env['python']}"
        + ("" if env["git_revision"] == "unknown" else f", commit {env['git_revision'][:12]}"),
    }


def reproduce(run: Run) -> str:
    """The training command, and the changes to the recipe where there are any."""
    ours, recipe = run.config.to_dict(), TrainConfig().to_dict()
    changes = {key: value for key, value in ours.items() if value != recipe[key]}
    command = "mtslvr train --data POOL --out RUN" + (" --config changes.json" if changes else "")
    return (
        f"```sh\n{command}\n```\n\n"
        + (f"with this changes.json:\n\n```json\n{json.dumps(changes, indent=2)}\n```\n\n" if changes else "")
        + "POOL is a folder with the audio of the sources below. Same seed, same batches; the weights agree up to "
        "rounding, which depends on machine and threads."
        + (" Of this run: " + " ".join(run.notes) if run.notes else "")
    )


def write_record(name: str, run: Run, all_measured: Sequence[Measured]) -> None:
    """What the card says of the run, without the folders of the machine it ran on, and of the accuracies."""
    record = {f.name: getattr(run, f.name) for f in dataclasses.fields(run)}
    sets = [
        {
            "name": measured.eval_set.name,
            "title": measured.eval_set.title,
            "classes": measured.classes,
            "clips": measured.clips,
            "chosen_by": measured.eval_set.name in CHOOSING,
            "accuracies": [
                {"classifier": classifier, "shots": shots, "features": label, "mean": result.mean, "ci95": result.ci95}
                for (classifier, shots), by_name in measured.results.items()
                for label, result in by_name.items()
            ],
        }
        for measured in all_measured
    ]
    path = ROOT / "benchmarks" / "runs" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    write(path, json.dumps({**record, "config": run.config.to_dict(), "sets": sets}, indent=2) + "\n")


def sources_table(report: Path) -> list[str]:
    """The lines of a corpus's report that are its table of sources."""
    _, heading, rest = report.read_text(encoding="utf-8").partition("| source |")
    return (heading + rest.partition("\n\n")[0]).splitlines()


def limits_of_results(all_measured: Sequence[Measured]) -> list[str]:
    """A sentence for each set and number of examples where no embedding does better than the baseline."""
    limits = []
    for measured in all_measured:
        for shots in SHOTS:
            by_name = measured.results["logistic", shots]
            best = max(result.mean for features, result in by_name.items() if features in EMBEDDINGS)
            if best <= by_name["log-mel"].mean:
                limits.append(
                    f"On `{measured.eval_set.name}`, {shots}-shot, the log-mel baseline does as well as any of the "
                    f"embeddings or better ({by_name['log-mel']} against {best:.2f} at best, logistic regression)."
                )
    return limits


def front_matter(name: str, all_measured: Sequence[Measured], config: EpisodeConfig, sources: list[str]) -> str:
    """The YAML block that the hub reads."""
    return ModelCardData(
        license="cc-by-sa-4.0",
        library_name="mtslvr",
        pipeline_tag="feature-extraction",
        tags=["audio", "audio-embeddings", "self-supervised-learning", "contrastive-learning", "few-shot", "mt-slvr"],
        datasets=[line.split("|")[1].strip() for line in sources[2:]],
        model_name=name,
        eval_results=[
            EvalResult(
                task_type="audio-classification",
                task_name="few-shot classification",
                dataset_type=measured.eval_set.name,
                dataset_name=measured.eval_set.title,
                metric_type="accuracy",
                # The hub's format puts all metrics of a data set below one task, so the metric tells the shots.
                metric_name=f"accuracy (%), {config.n_way}-way {shots}-shot, {features}, {CLASSIFIERS[classifier]}",
                metric_value=round(result.mean, 2),
            )
            for measured in all_measured
            for (classifier, shots), by_name in measured.results.items()
            for features, result in by_name.items()
            if features in EMBEDDINGS
        ],
    ).to_yaml()


def rows_read(name: str, rows: Rows | None) -> str:
    """What a head reads in place of the mean over all of the last stage."""
    if rows is None:
        return ""
    pairs = {3: rows.layer3, 4: rows.layer4}
    stages = [f"{first} to {end - 1} of stage {stage}" for stage, (first, end) in pairs.items() if end > first]
    what = "maxima and means" if rows.means else "maxima"
    return f"The {name} head reads {what} over time of the frequency rows {' and '.join(stages)} (0 is the lowest). "


def heads_made(run: Run, encoder: EncoderConfig) -> str:
    """How the heads were made after training, as a paragraph."""
    heads = run.config.heads
    if heads is None:
        return ""
    others = (
        ", the invariant one also those that noise vocoding, an equaliser and another clip as background change"
        if heads.disturb
        else ""
    )
    return (
        f"The heads even out the directions in which two crops of a clip differ (power {heads.power:g}, "
        f"{heads.clips:,} clips of the pool, ridge {heads.ridge:g}, of the variant one {heads.variant_ridge:g})"
        f"{others}. No label is used. "
        + (
            "The variant head also reads mean, deviation and mean absolute change over time of each mel band. "
            if encoder.spectral_statistics
            else ""
        )
        + "".join(rows_read(name, rows) for name, rows in zip(("invariant", "variant"), encoder.rows, strict=False))
        + "\n\n"
    )


def model_card(
    name: str,
    run: Run,
    all_measured: Sequence[Measured],
    config: EpisodeConfig,
    note: str,
    encoder: EncoderConfig,
    sources: list[str],
) -> str:
    """README.md of the checkpoint folder."""
    frontend = run.config.encoder.frontend
    results = "\n\n".join(results_of_set(m) for m in all_measured)
    limits = "".join(f"\n- {limit}" for limit in limits_of_results(all_measured))
    listed = "\n".join(sources)
    return f"""---
{front_matter(name, all_measured, config, sources).strip()}
---

# {name}

Audio embeddings from an MT-SLVR encoder: one ResNet-18 whose two task paths give an invariant embedding (contrastive,
unmoved by pitch shift, fades, noise, time stretch, masking and time shift) and a variant one (trained to tell which of
these were applied), {run.config.encoder.head_dim} numbers each. Method: Heggan, Hospedales, Budgett, Yaghoobi,
"MT-SLVR: Multi-Task Self-Supervised Learning for Transformation In(Variant) Representations", Interspeech 2023,
doi 10.21437/Interspeech.2023-1064. The weights are this project's own, not the authors'.

## Use

```python
import mtslvr
encoder = mtslvr.load("{name}")
x = mtslvr.embed("dog.wav", encoder=encoder)  # invariant and variant; features="invariant" or "variant" for one
```

## Results

Few-shot classification on frozen embeddings, on audio that was not trained on. {note}

{results}

## Training

{training_table(run)}

{heads_made(run, encoder)}To reproduce:

{reproduce(run)}

## Sources of the training audio

`python -m benchmarks.corpus` collects it; none of it is distributed here. All of it may be used for anything, under the
licences below.

{listed}

## Known limits

- Trained on {run.pool_hours:.1f} h of audio on {machine_of(run)}, far less than the balanced AudioSet of the paper
  (20,550 clips of 10 s): the figures above are not those of the paper, and the data sets differ, too.
- {frontend.sample_rate / 1000:g} kHz: nothing above {frontend.sample_rate / 2000:g} kHz is heard.
- Windows of {run.config.encoder.window_seconds:g} s, trained on crops of {run.config.crop_seconds:g} s: an
  embedding tells nothing of changes over a longer time.
- Most of the speech in the pool is single words and short commands, letters and numbers among them.
- Accuracy was measured on the sets above only; measure it on your own audio with `mtslvr fewshot`.{limits}
"""


def replace_block(text: str, name: str, content: str) -> str:
    """`text` with what stands between <!-- name --> and <!-- /name --> replaced."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, opening, rest = text.partition(start)
    _, closing, after = rest.partition(end)
    if not (opening and closing):
        raise SystemExit(f"README has no block {start} ... {end}")
    return f"{before}{start}\n{content}\n{end}{after}"


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    print(f"wrote {path}", file=sys.stderr)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and model.safetensors")
    parser.add_argument("--run", type=Path, help="run directory that the checkpoint comes from")
    parser.add_argument(
        "--eval",
        dest="sets",
        type=EvalSet.parse,
        action="append",
        default=[],
        metavar="NAME=FOLDER[:FIELD]",
        help="labelled audio, one folder a class, or the class in a field of the file names; may be repeated",
    )
    parser.add_argument("--corpus", type=Path, help="REPORT.md of the audio that the run was trained on")
    parser.add_argument("--held-back", type=Path, help="figures of sets that only report, a file of benchmarks/runs")
    parser.add_argument("--name", help="of the model; default: the name of the checkpoint folder")
    parser.add_argument("--work", type=Path, help="keep heads and accuracies here; a call that was ended goes on")
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    warnings.simplefilter("default")
    record = json.loads(options.held_back.read_text(encoding="utf-8")) if options.held_back else None
    card_path = options.checkpoint / "README.md"
    name = options.name or options.checkpoint.resolve().name
    if record and not options.run:
        write(card_path, with_held_back(card_path.read_text(encoding="utf-8"), record, name))
        return
    if not (options.run and options.sets and options.corpus):
        parser.error("give --run, --corpus and --eval, or --held-back alone")

    run = Run.read(options.run)
    encoder = read_config(options.checkpoint / CONFIG_NAME)
    if (run.config.heads.encoder(run.config.encoder) if run.config.heads else run.config.encoder) != encoder:
        raise SystemExit(f"{options.checkpoint}: its config.json is not the encoder of {options.run}")
    config = EpisodeConfig(n_way=5, n_shot=1, n_query=1, episodes=options.episodes, seed=options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        models = compared(options.checkpoint, options.run, work)
        measured = [measure(s, models, config, options.device, work) for s in options.sets]
    note = measured_with(config, measured[0])
    card = model_card(name, run, measured, config, note, encoder, sources_table(options.corpus))
    write(card_path, with_held_back(card, record, name) if record else card)
    write_record(name, run, measured)


if __name__ == "__main__":
    main()
