"""Audio embeddings from pretrained MT-SLVR encoders.

    import mtslvr

    x = mtslvr.embed("dog.wav")                                          # (1000,): invariant and variant, 500 each
    x = mtslvr.embed(waveform, sample_rate=44100, features="invariant")  # (500,)
    E, spans = mtslvr.embed_windows("night.flac", window_seconds=5, hop_seconds=2.5)
    for r in mtslvr.embed_files(paths, progress=True):                   # any iterable, of any length
        r.path, r.embedding, r.spans, r.error

    encoder = mtslvr.load("parallel-simclr-v2")   # a bundled name, a folder, or "org/name@revision" on the hub
    e = encoder(waveforms)                     # (B, T) at encoder.sample_rate
    e.invariant, e.variant, e.concat
    mtslvr.list_models()
    mtslvr.read_table("out.parquet")           # what mtslvr-embed wrote

Audio enters in `audio` (any file or array to mono windows), `nn` turns windows into embeddings, `run` joins both for
many files; `api` and the command line call it. `config` says what an encoder is, `models` finds and loads its weights.
`mtslvr.fewshot` measures embeddings on labelled audio; `mtslvr.training` makes the weights. Neither is imported here.
"""

import importlib as _importlib
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from .api import embed, embed_files, embed_windows, list_models
    from .classify import Classifier
    from .config import AdapterKind, EncoderConfig, Features, FrontendConfig, Layer, Normalization, Phase
    from .errors import AudioError, CheckpointError, ConfigError, HubError, MTSLVRError, TrainingError
    from .models.hub import load
    from .nn.encoder import Embeddings, Encoder
    from .run.table import read_table

    __version__: str

# Names are looked up when first used, so that `mtslvr --help` need not import torch.
_MODULES = {
    "api": ("embed", "embed_files", "embed_windows", "list_models"),
    "classify": ("Classifier",),
    "config": ("AdapterKind", "EncoderConfig", "Features", "FrontendConfig", "Layer", "Normalization", "Phase"),
    "errors": ("AudioError", "CheckpointError", "ConfigError", "HubError", "MTSLVRError", "TrainingError"),
    "models.hub": ("load",),
    "nn.encoder": ("Embeddings", "Encoder"),
    "run.table": ("read_table",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}
_SUBMODULES = ("analysis", "classify", "fewshot", "hear", "onnx", "ray", "search", "sklearn", "training", "writer")

__all__ = [
    "AdapterKind", "AudioError", "CheckpointError", "Classifier", "ConfigError", "Embeddings", "Encoder",
    "EncoderConfig", "Features", "FrontendConfig", "HubError", "Layer", "MTSLVRError", "Normalization", "Phase",
    "TrainingError", "embed", "embed_files", "embed_windows", "list_models", "load", "read_table",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("mtslvr")
    if name in _HOME:
        value = getattr(_importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return _importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"])
