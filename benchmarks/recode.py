r"""Packed clips to parts of a size, as Opus, for a machine that takes little at a time; and packed clips of the parts.

    python benchmarks/recode.py make PACKED build/gpu/parts --kbps 12 --seconds 1.5 --parts 2 --part-mib 56
    python benchmarks/recode.py join build/gpu-parts build/gpu-packed

Clips are drawn in random order until the parts are full, so that each part is a sample of all sources; of a long clip
its first seconds are taken, for a crop is a second and another clip says more than another second. Many clips share a
file: one alone has a kilobyte of headers, half a second of sound.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from mtslvr.training.data import PackedClips, write

LEAST_KBPS, MOST_KBPS = 6.0, 256.0  # of libsndfile's compression levels 1 and 0, a channel
BLOCK_SECONDS = 30  # of a file


def blocks(clips: PackedClips, seconds: float) -> Iterator[tuple[list[str], list[np.ndarray]]]:
    """Names and samples of clips in random order, about half a minute at a time."""
    longest, names, pieces = round(seconds * clips.sample_rate), list[str](), list[np.ndarray]()
    for index in np.random.default_rng(0).permutation(len(clips)):
        start, end = clips.starts[index : index + 2]
        names.append(clips.names[index])
        pieces.append(clips.samples[start : min(end, start + longest)])
        if sum(map(len, pieces)) > BLOCK_SECONDS * clips.sample_rate:
            yield names, pieces
            names, pieces = [], []
    if names:
        yield names, pieces


def opus(pieces: list[np.ndarray], sample_rate: int, kbps: float) -> bytes:
    """One Ogg Opus file."""
    file = io.BytesIO()
    level = (MOST_KBPS - kbps) / (MOST_KBPS - LEAST_KBPS)
    soundfile.write(file, np.concatenate(pieces), sample_rate, format="OGG", subtype="OPUS", compression_level=level)
    return file.getvalue()


def make(clips: PackedClips, out: Path, options: argparse.Namespace) -> str:
    """Write part-0.tar and so on; returns what is in them."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("part-*.tar"):
        old.unlink()
    limit, count, samples, part, used = options.part_mib * 2**20, 0, 0, 0, np.inf
    tar: tarfile.TarFile | None = None
    for number, (names, pieces) in enumerate(tqdm(blocks(clips, options.seconds), "recoding", mininterval=5)):
        lengths = [len(piece) for piece in pieces]
        head = {"sample_rate": clips.sample_rate, "names": names, "lengths": lengths}
        members = {"json": json.dumps(head).encode(), "opus": opus(pieces, clips.sample_rate, options.kbps)}
        size = sum(512 + -(-len(content) // 512) * 512 for content in members.values())
        if used + size > limit:
            if tar is not None:
                tar.close()
            if part == options.parts:
                break
            tar, used, part = tarfile.open(out / f"part-{part}.tar", "w"), 10240, part + 1  # noqa: SIM115
        assert tar is not None
        for suffix, content in members.items():
            entry = tarfile.TarInfo(f"{number:05}.{suffix}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        used, count, samples = used + size, count + len(names), samples + sum(lengths)
    if tar is not None:
        tar.close()
    return f"{part} parts, {count} of {len(clips)} clips, {samples / clips.sample_rate / 3600:.1f} h"


def join(parts: Path, out: Path, threads: int) -> str:
    """Packed clips of the unpacked parts in a folder; returns what is in them."""
    heads = [(path, json.loads(path.read_text())) for path in sorted(parts.glob("*.json"))]
    with ThreadPoolExecutor(threads) as pool:
        decoded = pool.map(lambda head: soundfile.read(head[0].with_suffix(".opus"), dtype="int16")[0], heads)
        blocks = zip((head for _, head in heads), decoded, strict=True)
        whole = ((head["names"], head["lengths"], np.resize(block, sum(head["lengths"]))) for head, block in blocks)
        write(out, heads[0][1]["sample_rate"], whole)
    clips = PackedClips.open(out)
    return f"{len(clips)} clips, {clips.hours:.1f} h"


def main() -> None:
    """Make parts or join them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "join"])
    parser.add_argument("source", type=Path, help="make: folder that `mtslvr pack` wrote; join: of the unpacked parts")
    parser.add_argument("out", type=Path)
    parser.add_argument("--kbps", type=float, default=12.0)
    parser.add_argument("--seconds", type=float, default=1.5, help="of a clip at the most")
    parser.add_argument("--parts", type=int, default=2)
    parser.add_argument("--part-mib", type=float, default=56.0)
    parser.add_argument("--threads", type=int, default=2, help="of join")
    options = parser.parse_args()
    if options.what == "join":
        print(join(options.source, options.out, options.threads))
    else:
        print(make(PackedClips.open(options.source), options.out, options))


if __name__ == "__main__":
    main()
