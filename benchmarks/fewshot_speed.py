r"""Time 10,000 episodes against the loop that fits one scikit-learn model an episode, side by side.

    python benchmarks/fewshot_speed.py [--write docs/fewshot.md]

Features are random clusters of the width of our embeddings: the time does not depend on what they mean, apart from the
passes that a fit takes. Both run on the same episodes in one process, ours on all of them, the loop on the first few
hundred, timed by the episode. --write puts the table between <!-- speed --> and <!-- /speed --> of a file.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from model_card import replace_block
from sklearn.linear_model import LogisticRegression, SGDClassifier

from mtslvr.fewshot import Classifier, EpisodeConfig, draw_episodes, evaluate
from mtslvr.fewshot.results import markdown
from mtslvr.run.machine import environment

DIM, CLASSES, FILES = 1000, 20, 50


def clusters() -> tuple[np.ndarray, np.ndarray]:
    """Overlapping classes: (1000, 1000) float32 features and their labels."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(CLASSES), FILES)
    centres = rng.standard_normal((CLASSES, DIM))
    return (0.3 * centres[labels] + rng.standard_normal((len(labels), DIM))).astype(np.float32), labels


def loop(features: np.ndarray, episodes: np.ndarray, n_shot: int, kind: Classifier) -> np.ndarray:
    """Labels (E, n_way) of the queries, one scikit-learn model an episode."""
    targets = np.repeat(np.arange(episodes.shape[1]), n_shot)
    state = np.random.RandomState(42)
    predicted = []
    for episode in episodes:
        if kind is Classifier.SGD:
            model = SGDClassifier(
                loss="log_loss", alpha=0, l1_ratio=0, learning_rate="adaptive", eta0=0.1, tol=1e-4, n_iter_no_change=2,
                max_iter=20, random_state=state,
            )  # fmt: skip
        else:
            model = LogisticRegression(max_iter=1000)
        model.fit(features[episode[:, :n_shot].ravel()], targets)
        predicted.append(model.predict_proba(features[episode[:, n_shot]]).argmax(axis=1))
    return np.array(predicted)


def measure(kind: Classifier, n_shot: int, count: int, loop_count: int) -> list[str]:
    """One line of the table, 5-way."""
    features, labels = clusters()
    if kind is Classifier.LOGISTIC:  # rows of length 1, its default; far from that, scikit-learn stops too soon
        features /= np.linalg.norm(features, axis=1, keepdims=True)
    config = EpisodeConfig(5, n_shot, 1, count)
    episodes = draw_episodes(labels, config)
    start = time.perf_counter()
    ours = evaluate(features, labels, config, kind, "none")
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    theirs = loop(features, episodes[:loop_count], n_shot, kind)
    each = (time.perf_counter() - start) / loop_count
    accuracies = f"{ours.accuracies[:loop_count].mean():.2f} / {100 * (theirs == np.arange(5)).mean():.2f}"
    ratio = f"{each * count / seconds:.0f}"
    return [kind.value, f"5-way {n_shot}-shot", f"{seconds:.1f} s", f"{1000 * each:.1f} ms", ratio, accuracies]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--loop-episodes", type=int, default=200)
    parser.add_argument("--write", type=Path, help="file with a block <!-- speed -->")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # the fits stop after 20 passes, as published
    count, machine = options.episodes, environment()
    heading = ["classifier", "task", f"{count:,} here", "one in the loop", "times as fast", "accuracy here / loop"]
    lines = [
        measure(kind, n_shot, count, options.loop_episodes)
        for kind in (Classifier.SGD, Classifier.LOGISTIC)
        for n_shot in (1, 5)
    ]
    text = (
        f"{markdown([heading, *lines])}\n\n"
        f"{DIM}-d features, one query a class; accuracy on the {options.loop_episodes} episodes that both did, in %. "
        f"mtslvr {machine['mtslvr']}, scikit-learn {metadata.version('scikit-learn')}, NumPy {machine['numpy']}, torch "
        f"{machine['torch']} with {torch.get_num_threads()} threads, {machine['cpu']}, {machine['cores']} cores, load "
        f"average {os.getloadavg()[0]:.1f} before the end."
    )
    print(text)
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        options.write.write_text(replace_block(page, "speed", text), encoding="utf-8")


if __name__ == "__main__":
    main()
