"""Few-shot evaluation of any feature matrix, and of encoders on folders of labelled audio.

    from mtslvr.fewshot import EpisodeConfig, evaluate

    result = evaluate(features, labels, EpisodeConfig(n_way=5, n_shot=1, episodes=1000))
    print(result)  # mean accuracy ± 95% interval over clips, in percent
    result.per_class, result.accuracies

`features` is (n, D), one row a file, from any encoder; `labels` is (n,). The modules in order: `episodes`, `sgd`,
`logistic`, `classifiers`, `evaluate` work on matrices; `dataset` and `datasets` find labelled files, `logmel`, `cache`
and `features` turn them into matrices, `command` joins all of it for several models and sets, `results` and `table`
show what came out.
"""

from .classifiers import Classifier, cosine_prototypes, logistic_regression, nearest_centroid, sgd
from .command import CompareConfig, compare, run
from .dataset import LabelledSet, labelled_files, labels_from_names, labels_from_table, read_set
from .datasets import DATASETS, prepare
from .episodes import EpisodeConfig, draw_episodes, published_tasks, usable_classes
from .evaluate import FewShotResult, Scaling, evaluate, l2_concat, majority_vote
from .features import extract_features
from .interval import clips_interval
from .logmel import log_mel_features, log_mel_statistics
from .results import Results, Row, read_results
from .table import average_ranks, format_table

__all__ = [
    "DATASETS",
    "Classifier",
    "CompareConfig",
    "EpisodeConfig",
    "FewShotResult",
    "LabelledSet",
    "Results",
    "Row",
    "Scaling",
    "average_ranks",
    "clips_interval",
    "compare",
    "cosine_prototypes",
    "draw_episodes",
    "evaluate",
    "extract_features",
    "format_table",
    "l2_concat",
    "labelled_files",
    "labels_from_names",
    "labels_from_table",
    "log_mel_features",
    "log_mel_statistics",
    "logistic_regression",
    "majority_vote",
    "nearest_centroid",
    "prepare",
    "published_tasks",
    "read_results",
    "read_set",
    "run",
    "sgd",
    "usable_classes",
]
