"""Embeddings as a step of a scikit-learn pipeline; needs the extra [sklearn]."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils.validation import check_is_fitted

from .api import embed, get_encoder
from .audio.load import audio_label
from .config import Features, Layer, parse_enum
from .errors import AudioError
from .nn.encoder import Encoder

_OPTIONS = ("features", "layer", "window_seconds", "hop_seconds", "batch_size", "threads")  # handed on to `embed`


class MTSLVRTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Audio files or waveforms to embeddings, one row each.

    Nothing is learnt in `fit`, so `transform` needs none. Use `Pipeline(..., memory=folder)` to embed once in a
    grid search over the steps that follow; that cache goes by the names of model and files, so empty it when what is
    in them has changed.

    A pipeline of short clips labels the windows of a long recording by the steps after this one:

        pipeline = make_pipeline(MTSLVRTransformer(window_seconds=2), Normalizer(), LogisticRegression(C=100))
        pipeline.fit(clips, labels)
        windows, spans = mtslvr.embed_windows("night.flac", window_seconds=2, hop_seconds=1)
        pipeline[1:].predict(windows)  # spans[i] is when, in seconds
    Args:
        model: what `mtslvr.load` takes, or an encoder; None is the bundled default. It is loaded once, and again when
            the files in its folder have changed.
        features, layer, window_seconds, hop_seconds, batch_size, threads: see `mtslvr.embed`.
        sample_rate: Hz of arrays; None is the model's own. Files know theirs.
        device: "auto", "cpu", "cuda" ...
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder | None = None,
        *,
        features: str = "concat",
        layer: str = "head",
        window_seconds: float | None = None,
        hop_seconds: float | None = None,
        sample_rate: int | None = None,
        batch_size: int = 32,
        threads: int = 2,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.features = features
        self.layer = layer
        self.window_seconds = window_seconds
        self.hop_seconds = hop_seconds
        self.sample_rate = sample_rate
        self.batch_size = batch_size
        self.threads = threads
        self.device = device

    def fit(self, X: Any, y: Any = None) -> MTSLVRTransformer:
        """Check the settings and load the model; nothing is learnt, and `y` is not used.

        Raises:
            ConfigError: unknown features or layer.
            HubError, CheckpointError: see `mtslvr.load`.
        """
        inputs = _inputs(X)
        if isinstance(X, np.ndarray) and X.ndim == 2:
            self.n_features_in_ = X.shape[1]
        if len(inputs) == 0:
            raise AudioError("Found array with 0 sample(s) while a minimum of 1 is required: no audio to fit to")
        features, layer = parse_enum(Features, self.features, "features"), parse_enum(Layer, self.layer, "layer")
        encoder = get_encoder(self.model, self.device)
        self._n_features_out = encoder.embedding_dim(features, layer)
        kinds = (Features.INVARIANT, Features.VARIANT) if features is Features.CONCAT else (features,)
        names = [f"{kind.value}{i}" for kind in kinds for i in range(encoder.embedding_dim(kind, layer))]
        self._names = names[: self._n_features_out]  # an encoder with one output has it under both names
        return self

    def transform(self, X: Any) -> npt.NDArray[np.float32]:
        """Embed.

        Args:
            X: n paths or waveforms (samples,) or (channels, samples), in a list, an array of paths or objects, or a
                Series; or an array (n, samples) with a waveform a row.
        Returns:
            (n, width) float32.
        Raises:
            AudioError, ConfigError: see `mtslvr.embed`.
        """
        encoder = get_encoder(self.model, self.device)
        options: dict[str, Any] = {name: getattr(self, name) for name in _OPTIONS}
        rows: npt.NDArray[np.float32] = embed(
            _inputs(X), self.sample_rate or encoder.sample_rate, encoder=encoder, **options
        )
        return rows

    def get_feature_names_out(self, input_features: Any = None) -> npt.NDArray[Any]:
        """Names of the columns: invariant0, invariant1 ... variant0 ..."""
        check_is_fitted(self, "_n_features_out")
        return np.array(self._names, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.no_validation = True  # waveforms of a list have lengths of their own
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _inputs(X: Any) -> list[Any]:
    if isinstance(X, (str, os.PathLike)):
        raise AudioError(f"{audio_label(X)}: a single path; pass a list of paths")
    if hasattr(X, "toarray"):
        check_array(X)  # says what to do with a sparse matrix
    if isinstance(X, list) and X and all(isinstance(x, (str, os.PathLike, np.ndarray)) for x in X):
        return X
    array = X if isinstance(X, np.ndarray) else np.asarray(X)
    if array.ndim == 1 and array.dtype.kind in "OUST":
        return [str(x) if isinstance(x, np.str_) else x for x in array.tolist()]
    if array.ndim == 2 and array.dtype.kind in "OUST" and array.shape[1] == 1:
        return _inputs(array[:, 0])  # a column of paths, as ColumnTransformer passes it
    if array.ndim != 2:
        raise AudioError(
            f"X of shape {array.shape}: Reshape your data: pass a list of paths or waveforms, or an array "
            "(waveforms, samples)"
        )
    return list(check_array(array, dtype="numeric"))
