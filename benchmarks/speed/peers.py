"""Other ways to features of audio that pip installs, in alternation with ours."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from importlib import metadata
from typing import Any

import torch
from model_card import table
from torch import Tensor

from . import candidates, timing
from .plan import Plan
from .sounds import clips

TITLE = "Peers"
OURS = "mtslvr, torch float32"
BATCHES = {1: 10, 8: 5}  # clips to rounds
RATE = 16000


def measure(plan: Plan) -> dict[str, Any]:
    """With all threads, in one process."""
    rounds = plan.pick(BATCHES, {1: 1, 2: 1})
    return plan.call(time_peers, plan.most, rounds=[*rounds.items()], seed=plan.seed) | {"threads": plan.most}


def opensmile_features() -> tuple[Callable[[Tensor], Tensor], str]:
    """The 88 functionals of eGeMAPSv02, clip by clip, as the library works."""
    opensmile = importlib.import_module("opensmile")
    smile = opensmile.Smile(
        feature_set=opensmile.FeatureSet.eGeMAPSv02, feature_level=opensmile.FeatureLevel.Functionals
    )

    def embed(waveforms: Tensor) -> Tensor:
        rows = [torch.tensor(smile.process_signal(clip.numpy(), RATE).to_numpy()) for clip in waveforms]
        return torch.cat(rows)

    return embed, "handcrafted functionals, one process"


def wav2vec2() -> tuple[Callable[[Tensor], Tensor], str]:
    """The base configuration, mean over time of its last layer."""
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    model = transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()).eval()

    def embed(waveforms: Tensor) -> Tensor:
        normal = (waveforms - waveforms.mean(dim=1, keepdim=True)) / waveforms.std(dim=1, keepdim=True)
        hidden: Tensor = model(normal).last_hidden_state
        return hidden.mean(dim=1)

    return embed, f"random weights, {parameters(model):.0f} M parameters"


def whisper() -> tuple[Callable[[Tensor], Tensor], str]:
    """The encoder of the base configuration behind its own feature extractor, which fills every clip up to 30 s."""
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        d_model=512,
        encoder_layers=6,
        encoder_attention_heads=8,
        encoder_ffn_dim=2048,
        decoder_layers=1,
        decoder_attention_heads=8,
    )
    encoder = transformers.WhisperModel(config).encoder.eval()
    extract = transformers.WhisperFeatureExtractor()

    def embed(waveforms: Tensor) -> Tensor:
        features = extract(list(waveforms.numpy()), sampling_rate=RATE, return_tensors="pt")["input_features"]
        hidden: Tensor = encoder(features).last_hidden_state
        return hidden.mean(dim=1)

    return embed, f"random weights, {parameters(encoder):.0f} M parameters, always 30 s"


def parameters(model: torch.nn.Module) -> float:
    """Millions of them."""
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


# Name to the package that has it, and what makes it.
PEERS = {
    "openSMILE eGeMAPSv02": ("opensmile", opensmile_features),
    "wav2vec2-base": ("transformers", wav2vec2),
    "Whisper base encoder": ("transformers", whisper),
}


def time_peers(rounds: list[tuple[int, int]], seed: int) -> dict[str, Any]:
    """Seconds by batch and peer, and what each gives."""
    ours = candidates.load("torch float32")
    found: dict[str, Callable[[Tensor], Tensor]] = {OURS: candidates.embedder(ours)}
    notes = {OURS: f"trained weights, {parameters(ours):.0f} M parameters, both tasks"}
    absent = {}
    for name, (package, build) in PEERS.items():
        try:
            found[name], said = build()
            notes[name] = f"{said}; {package} {metadata.version(package)}"
        except ImportError as error:
            absent[name] = str(error).splitlines()[0]
    with torch.inference_mode():
        dims = {name: embed(clips(1, seed=seed)).shape[1] for name, embed in found.items()}
        seconds = {}
        for batch, count in rounds:
            waveforms = clips(batch, seed=seed)
            calls = {name: functools.partial(embed, waveforms) for name, embed in found.items()}
            seconds[str(batch)] = timing.alternate(calls, count, warm_up=1)
    return {"seconds": seconds, "dims": dims, "notes": notes, "absent": absent}


def render(data: dict[str, Any]) -> str:
    """A row for each peer."""
    batches = list(data["seconds"])
    heading = [part for batch in batches for part in (f"batch {batch}, clips/s", "ours, times as fast")]
    rows = [["features of 5 s", "numbers", *heading, ""]]
    for name, dim in data["dims"].items():
        cells = []
        for batch in batches:
            values, ours = data["seconds"][batch][name], data["seconds"][batch][OURS]
            cells += [
                timing.rate(values, int(batch)),
                "" if name == OURS else timing.spread(timing.ratios(values, ours)),
            ]
        rows.append([name, str(dim), *cells, data["notes"][name]])
    missing = "".join(f"\n\n{name}: not measured ({reason})." for name, reason in data["absent"].items())
    return (
        f"Waveform at {RATE / 1000:g} kHz to one vector a clip, in alternation, {data['threads']} threads. Random "
        f"weights serve to measure speed only; nothing is said here of what the features are worth.\n\n{table(rows)}"
        f"{missing}"
    )
