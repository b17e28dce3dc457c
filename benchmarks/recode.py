r"""Packed clips to tar files of Ogg Opus, each below a size, for a machine that takes little at a time.

    python benchmarks/recode.py packed build/gpu/parts --kbps 16 --part-mib 24

`tar -x` and `mtslvr pack` make packed clips of them again.
"""

from __future__ import annotations

import argparse
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import soundfile
from tqdm import tqdm

from mtslvr.training.data import PackedClips

LEAST_KBPS, MOST_KBPS = 6.0, 256.0  # of libsndfile's compression levels 1 and 0, a channel


def encoded(clips: PackedClips, kbps: float) -> Iterator[tuple[str, bytes]]:
    """Name and file of each clip; pieces of a long recording become clips of their own."""
    level = (MOST_KBPS - kbps) / (MOST_KBPS - LEAST_KBPS)
    for index, name in enumerate(clips.names):
        file = io.BytesIO()
        samples = clips.samples[clips.starts[index] : clips.starts[index + 1]]
        soundfile.write(file, samples, clips.sample_rate, format="OGG", subtype="OPUS", compression_level=level)
        yield name.replace("#", "-") + ".opus", file.getvalue()


def main() -> None:
    """Write the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path, help="folder that `mtslvr pack` wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kbps", type=float, default=16.0)
    parser.add_argument("--part-mib", type=float, default=24.0)
    options = parser.parse_args()
    clips = PackedClips.open(options.packed)
    options.out.mkdir(parents=True, exist_ok=True)
    for old in options.out.glob("part-*.tar"):
        old.unlink()
    part, number, size = None, 0, 0.0
    for name, data in tqdm(encoded(clips, options.kbps), "recoding", len(clips), unit="clip", mininterval=2.0):
        if part is None or size + len(data) + 2048 > options.part_mib * 2**20:
            if part is not None:
                part.close()
            part, size = tarfile.open(options.out / f"part-{number:02}.tar", "w"), 10240.0  # noqa: SIM115
            number += 1
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        part.addfile(entry, io.BytesIO(data))
        size += 512 + -(-len(data) // 512) * 512
    if part is not None:
        part.close()
    print(f"{options.out}: {number} parts of at most {options.part_mib:g} MiB, {clips.hours:.1f} h")


if __name__ == "__main__":
    main()
