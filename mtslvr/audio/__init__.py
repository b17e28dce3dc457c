"""Any file, file object or array in, mono waveforms out; audio in folders; windows of recordings; next: `nn`."""

from .load import load_audio

__all__ = ["load_audio"]
