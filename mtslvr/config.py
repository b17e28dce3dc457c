"""What an encoder is, as frozen dataclasses stored with its weights; next module: `frontend`, `encoder`."""

from __future__ import annotations

import dataclasses
import enum
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import ConfigError

FORMAT_VERSION = 1
CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"  # files of a checkpoint folder
STAGE_CHANNELS = (64, 128, 256, 512)  # of ResNet-18
POOLED_DIM = STAGE_CHANNELS[-1]
# Numbers in the largest intermediate result of one window; windows of 600 s with the default front end take 0.86 of it.
_LARGEST_WINDOW = 1 << 26

E = TypeVar("E", bound=enum.Enum)


class Features(str, enum.Enum):
    """Which embedding is returned."""

    INVARIANT = "invariant"
    VARIANT = "variant"
    CONCAT = "concat"


class Layer(str, enum.Enum):
    """Where an embedding is read: after the linear head (paper) or after pooling, before it."""

    HEAD = "head"
    POOLED = "pooled"


class AdapterKind(str, enum.Enum):
    """How the two tasks are kept apart inside the shared network."""

    NONE = "none"
    SPLIT = "split"
    BN = "bn"
    SERIES = "series"
    PARALLEL = "parallel"


class Normalization(str, enum.Enum):
    """Over what a waveform is brought to mean 0 and standard deviation 1 before the front end."""

    WINDOW = "window"
    FILE = "file"
    GLOBAL = "global"
    NONE = "none"


class Phase(str, enum.Enum):
    """PUBLISHED: the phase as is. STABLE: the phase of frame 0 is set to 0, and it fades out below `epsilon`."""

    PUBLISHED = "published"
    STABLE = "stable"


def parse_enum(kind: type[E], value: object, name: str) -> E:
    """The member of `kind` that `value` names; a ConfigError that lists the valid ones where it names none."""
    try:
        return kind(value)
    except ValueError:
        valid = ", ".join(repr(member.value) for member in kind)
        raise ConfigError(f"{name}={value!r}: unknown; use one of {valid}") from None


@dataclass(frozen=True)
class FrontendConfig:
    """Waveform to spectrogram. The defaults are the published values; config.json of the bundled model has others.

    Attributes:
        sample_rate: Hz.
        n_fft: STFT length in samples, even.
        hop_length: STFT hop in samples.
        n_mels: mel filters between `f_min` and `f_max` Hz (HTK scale, no area normalisation).
        channels: 3 (log-mel power, log magnitude, phase) or 1 (log-mel power).
        epsilon: added before each logarithm; the published value is float64 machine epsilon.
        phase: see `Phase`.
    """

    sample_rate: int = 16000
    n_fft: int = 1024
    hop_length: int = 512
    n_mels: int = 128
    f_min: float = 0.0
    f_max: float = 8000.0
    channels: int = 3
    epsilon: float = 2.220446049250313e-16
    phase: Phase = Phase.PUBLISHED

    def __post_init__(self) -> None:
        ranges = {"sample_rate": (1000, 384000), "n_fft": (16, 16384), "hop_length": (1, 16384), "n_mels": (8, 1024)}
        _check(self, "frontend.", ranges)
        # The Hann spectrum is made from the rectangular one, which takes a bin at half the rate.
        _require(self.n_fft % 2 == 0, "frontend.n_fft", self.n_fft, "even")
        _require(self.channels in (1, 3), "frontend.channels", self.channels, "1 or 3")
        _require(0 < self.epsilon < 1, "frontend.epsilon", self.epsilon, "in (0, 1)")
        nyquist = self.sample_rate / 2
        band, said = (self.f_min, self.f_max), f"0 <= f_min < f_max <= {nyquist:g} Hz"
        _require(0 <= self.f_min < self.f_max <= nyquist, "frontend.f_min, f_max", band, said)


@dataclass(frozen=True)
class Rows:
    """Which rows, of low frequencies first, of the last two stages a path's features are maxima over time of.

    With the default front end stage 3 has 8 rows of 256 numbers each and stage 4 has 4 of 512; a pair is the first row
    and the one after the last, and two equal numbers are none. With `means` also the means over time of the same rows.
    """

    layer3: tuple[int, int] = (0, 0)
    layer4: tuple[int, int] = (0, 0)
    means: bool = False

    def __post_init__(self) -> None:
        for name, pair in (("layer3", self.layer3), ("layer4", self.layer4)):
            ok = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(row) is int for row in pair)
            _require(ok and 0 <= pair[0] <= pair[1], f"rows.{name}", pair, "two whole numbers, 0 <= first <= end")
            object.__setattr__(self, name, tuple(pair))  # JSON has lists only
        _check(self, "rows.", {})
        _require(max(self.dims) > 0, "rows", self, "one row at least")

    @property
    def dims(self) -> tuple[int, int]:
        """How many maxima of stage 3 and of stage 4."""
        (third, third_end), (fourth, fourth_end) = self.layer3, self.layer4
        return STAGE_CHANNELS[2] * (third_end - third), STAGE_CHANNELS[3] * (fourth_end - fourth)

    @classmethod
    def parse(cls, text: str) -> Rows:
        """Rows from text such as "layer3=2:4,layer4=1:3" or "layer4=0:4,means"."""
        parts = [part.strip() for part in text.split(",")]
        found = [re.fullmatch(r"(layer[34])=(\d+):(\d+)", part) for part in parts if part != "means"]
        pairs = {match[1]: (int(match[2]), int(match[3])) for match in found if match is not None}
        if len(pairs) != len(found):
            raise ConfigError(f"rows={text!r}: expected a text such as 'layer3=2:4,layer4=1:3'")
        return cls(**pairs, means="means" in parts)


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that turns a file of weights into an encoder; stored as config.json beside them.

    Attributes:
        adapter: see `AdapterKind`.
        tasks: paths through layer2..4 (2 with adapters, 1 for none and split).
        heads: linear heads; with 1 head both tasks share it.
        head_dim: width of one head's output, in features.
        spectral_statistics: the variant head also reads mean, deviation and mean absolute change over time of each mel
            band; needs two paths. Not part of the published network.
        invariant_rows: what the invariant path's features are; None is the mean over all of the last stage, as
            published.
        variant_rows: the same of the variant path; needs two paths, and is `invariant_rows` where they share a head.
        window_seconds: length of the slices given to the encoder.
        normalization: see `Normalization`.
        global_mean, global_std: of the training waveforms, for `Normalization.GLOBAL`.
    """

    frontend: FrontendConfig = field(default_factory=FrontendConfig)
    adapter: AdapterKind = AdapterKind.PARALLEL
    tasks: int = 2
    heads: int = 2
    head_dim: int = 500
    spectral_statistics: bool = False
    invariant_rows: Rows | None = None
    variant_rows: Rows | None = None
    window_seconds: float = 5.0
    normalization: Normalization = Normalization.WINDOW
    global_mean: float = 0.0
    global_std: float = 1.0
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        _check(self, "", {"tasks": (1, 2), "heads": (1, 2), "head_dim": (1, 4096)})
        said = f"1 with adapter {self.adapter.value!r}"
        for name, single in (("tasks", (AdapterKind.NONE, AdapterKind.SPLIT)), ("heads", (AdapterKind.NONE,))):
            value = getattr(self, name)
            _require(value == 1 or self.adapter not in single, name, value, said)
        two, statistics = self.tasks == self.heads == 2, self.spectral_statistics
        _require(two or not statistics, "spectral_statistics", statistics, "false without two tasks and two heads")
        _require(0.1 <= self.window_seconds <= 600, "window_seconds", self.window_seconds, "0.1 to 600")
        _require(self.global_std > 0, "global_std", self.global_std, "positive")
        newer = f"{FORMAT_VERSION}; a newer mtslvr wrote this: upgrade with `pip install -U mtslvr`"
        _require(self.format_version == FORMAT_VERSION, "format_version", self.format_version, newer)
        self._check_rows()
        self._check_size()

    def _check_size(self) -> None:
        """Each setting is in its range, and together they could still ask for terabytes of STFT and stem's output."""
        front = self.frontend
        numbers = (1 + self.window_length // front.hop_length) * (front.n_fft + 16 * front.n_mels)
        values = (self.window_seconds, front.sample_rate, front.hop_length, front.n_fft, front.n_mels)
        said = f"so small that a window takes {_LARGEST_WINDOW} numbers at most, not {numbers}"
        name = "window_seconds, frontend.(sample_rate, hop_length, n_fft, n_mels)"
        _require(numbers <= _LARGEST_WINDOW, name, values, said)

    def _check_rows(self) -> None:
        third, fourth = -(-self.frontend.n_mels // 16), -(-self.frontend.n_mels // 32)  # rows of stages 3 and 4
        for name in ("invariant_rows", "variant_rows"):
            rows = getattr(self, name)
            fits = rows is None or (rows.layer3[1] <= third and rows.layer4[1] <= fourth)
            said = f"within {third} rows of layer3 and {fourth} of layer4, as {self.frontend.n_mels} mel bands give"
            _require(fits, name, rows, said)
        variant = self.variant_rows
        _require(self.tasks == 2 or variant is None, "variant_rows", variant, "None with one path; give invariant_rows")
        shared = self.tasks == 2 and self.heads == 1 and variant != self.invariant_rows
        _require(not shared, "variant_rows", variant, "invariant_rows, since both paths share a head")

    @property
    def rows(self) -> tuple[Rows | None, ...]:
        """Of each path."""
        return (self.invariant_rows, self.variant_rows)[: self.tasks]

    @property
    def pooled_blocks(self) -> tuple[tuple[int, ...], ...]:
        """Of each path what its head reads: how many numbers of each kind, a stage's or the spectral statistics."""
        blocks = [(POOLED_DIM,) if rows is None else rows.dims * (1 + rows.means) for rows in self.rows]
        blocks[-1] = (*blocks[-1], 3 * self.frontend.n_mels if self.spectral_statistics else 0)
        return tuple(tuple(dim for dim in dims if dim) for dims in blocks)

    @property
    def window_length(self) -> int:
        """Length of a window in samples."""
        return round(self.window_seconds * self.frontend.sample_rate)

    @property
    def outputs(self) -> int:
        """Separate outputs: 2, or 1 where both tasks share path and head."""
        return max(self.tasks, self.heads)

    def embedding_dim(self, features: Features = Features.CONCAT, layer: Layer = Layer.HEAD) -> int:
        """Width of an embedding."""
        if layer is Layer.HEAD:
            return self.head_dim * (self.outputs if features is Features.CONCAT else 1)
        widths = [sum(blocks) for blocks in self.pooled_blocks]
        return {Features.INVARIANT: widths[0], Features.VARIANT: widths[-1], Features.CONCAT: sum(widths)}[features]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types, enums as their values; the inverse of `from_dict`."""
        return dataclasses.asdict(self, dict_factory=lambda items: {k: getattr(v, "value", v) for k, v in items})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EncoderConfig:
        """The config that `to_dict` wrote.

        Raises:
            ConfigError: an unknown key, a missing `format_version`, or a value outside its range.
        """
        if not isinstance(data, Mapping) or "format_version" not in data:
            raise ConfigError("config: no key 'format_version'; this is not an mtslvr config.json")
        return _build(cls, data)


C = TypeVar("C", FrontendConfig, EncoderConfig, Rows)
_PARTS: dict[str, Any] = {"frontend": FrontendConfig, "invariant_rows": Rows, "variant_rows": Rows}
_ENUMS: dict[str, type[enum.Enum]] = {"adapter": AdapterKind, "normalization": Normalization, "phase": Phase}
_KINDS: dict[str, Any] = {"int": int, "float": (int, float), "bool": bool, "tuple[int, int]": tuple}


def _build(cls: type[C], data: Mapping[str, Any], prefix: str = "") -> C:
    """The dataclass with values from JSON, of which objects and names become what its fields hold."""
    known = [f.name for f in dataclasses.fields(cls)]
    if unknown := sorted(set(data) - set(known)):
        listed = ", ".join(repr(prefix + str(key)) for key in unknown)
        raise ConfigError(f"config: unknown key {listed}; known: {', '.join(prefix + name for name in known)}")
    values = dict(data)
    for name, value in data.items():
        if name in _ENUMS:
            values[name] = parse_enum(_ENUMS[name], value, f"config: {prefix}{name}")
        elif name in _PARTS and isinstance(value, Mapping):
            values[name] = _build(_PARTS[name], value, f"{prefix}{name}.")
    return cls(**values)


def _check(config: Any, prefix: str, ranges: Mapping[str, tuple[int, int]]) -> None:
    """See that each value is of the type that its field has, and whole numbers within their ranges."""
    for f in dataclasses.fields(config):
        value, kind = getattr(config, f.name), str(f.type)
        kinds = _KINDS.get(kind) or _ENUMS.get(f.name) or _PARTS[f.name]
        ok = isinstance(value, kinds) and isinstance(value, bool) == (kind == "bool")
        if kind == "float":  # a finite number, and one that a float can hold
            ok = ok and abs(value) <= sys.float_info.max
        _require(ok or (value is None and kind.endswith("None")), prefix + f.name, value, f"of type {kind}")
    for name, (low, high) in ranges.items():
        value = getattr(config, name)
        _require(low <= value <= high, prefix + name, value, f"an integer from {low} to {high}")


def _require(condition: bool, name: str, value: object, remedy: str) -> None:
    if not condition:
        raise ConfigError(f"config: {name}={value!r}: must be {remedy}")
