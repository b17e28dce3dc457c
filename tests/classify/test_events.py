"""Windows to events: neighbours of a class are one event."""

import numpy as np
import pytest

from mtslvr.classify import EventConfig, find_events
from mtslvr.errors import ConfigError

SPANS = np.array([[0, 2], [1, 3], [2, 4], [3, 5], [6, 8]], float)


def events(owl, fox=(0, 0, 0, 0, 0), **settings):
    probabilities = np.array([owl, fox, np.subtract(1, np.add(owl, fox))], np.float32).T
    found = find_events("a.wav", probabilities, SPANS, ("owl", "fox"), EventConfig(**settings))
    return [(x.label, x.start, x.end, round(x.score, 2)) for x in found]


def test_settings_of_events_are_numbers_in_their_ranges():
    for setting, told in (
        ({"threshold": "0.5"}, "threshold='0.5': must be a number"),
        ({"threshold": 1.5}, "threshold=1.5: must be a probability"),
        ({"top_k": 1.5}, "top_k=1.5: must be a whole number"),
        ({"top_k": 0}, "top_k=0: must be"),
        ({"merge_gap": float("nan")}, "merge_gap=nan: must be a number of seconds"),
        ({"min_duration": -1}, "min_duration=-1: must be"),
    ):
        with pytest.raises(ConfigError, match=told):
            EventConfig(**setting)
    assert EventConfig(threshold=np.float32(0.5), top_k=np.int64(2)).top_k == 2


def test_neighbouring_windows_of_a_class_are_one_event_and_gaps_are_closed_and_short_ones_left_out():
    owl = [0.6, 0.9, 0.1, 0.0, 0.7]
    assert events(owl) == [("owl", 0, 3, 0.9), ("owl", 6, 8, 0.7)]
    assert events(owl, threshold=0.8) == [("owl", 1, 3, 0.9)]
    assert events(owl, merge_gap=3) == [("owl", 0, 8, 0.9)]
    assert events(owl, min_duration=3) == [("owl", 0, 3, 0.9)]
    assert find_events("a", np.empty((0, 2), np.float32), np.empty((0, 2)), ("owl",), EventConfig()) == []


def test_windows_that_only_touch_are_two_events_where_one_of_another_class_is_between():
    owl, apart = [0.9, 0, 0.8, 0, 0], [("owl", 0, 2, 0.9), ("fox", 1, 3, 0.9), ("owl", 2, 4, 0.8)]
    assert events(owl, fox=[0, 0.9, 0, 0, 0], top_k=2) == apart
    assert events(owl, merge_gap=0.1) == [("owl", 0, 4, 0.9)]


def test_one_sound_has_one_class_unless_windows_may_have_two():
    owl, fox = [0.6, 0.9, 0, 0, 0], [0, 0, 0.7, 0.9, 0]  # the end of the owl's call sounds like a fox, which calls then
    assert events(owl, fox) == [("owl", 0, 3, 0.9), ("fox", 3, 5, 0.9)]
    assert ("fox", 2, 5, 0.9) in events(owl, fox, top_k=2)
    owl, fox = [0.5, 0, 0, 0, 0], [0.4, 0, 0, 0, 0]
    assert events(owl, fox, threshold=0.3) == [("owl", 0, 2, 0.5)]
    assert events(owl, fox, threshold=0.3, top_k=2) == [("fox", 0, 2, 0.4), ("owl", 0, 2, 0.5)]
