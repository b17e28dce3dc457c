"""Few-shot evaluation of any feature matrix.

    from mtslvr.fewshot import EpisodeConfig, evaluate

    result = evaluate(features, labels, EpisodeConfig(n_way=5, n_shot=1, episodes=1000))
    print(result)  # mean accuracy ± 95% interval, in percent

`features` is (n, D), one row a file, from any encoder; `labels` is (n,). The modules in order: `dataset`
(folder to labelled files), `logmel` (baseline features), `episodes`, `classifiers`, `evaluate`, `command` (all
for one folder, as a table).
"""

from .classifiers import Classifier, logistic_regression, nearest_centroid, sgd
from .command import Row, extract_features, format_table, run
from .dataset import labelled_files, labels_from_names
from .episodes import EpisodeConfig, draw_episodes, published_tasks, usable_classes
from .evaluate import FewShotResult, Scaling, evaluate, l2_concat, majority_vote
from .logmel import log_mel_features, log_mel_statistics

__all__ = [
    "Classifier",
    "EpisodeConfig",
    "FewShotResult",
    "Row",
    "Scaling",
    "draw_episodes",
    "evaluate",
    "extract_features",
    "format_table",
    "l2_concat",
    "labelled_files",
    "labels_from_names",
    "log_mel_features",
    "log_mel_statistics",
    "logistic_regression",
    "majority_vote",
    "nearest_centroid",
    "published_tasks",
    "run",
    "sgd",
    "usable_classes",
]
