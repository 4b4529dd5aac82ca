"""Flags that recipes share: where the curves of a training are drawn."""

import pytest

from hf_components.runtime.errors import UserError
from hf_components.runtime.recipe_arguments import TRACKERS, tracker

pytestmark = pytest.mark.unit


def test_known_trackers_and_none(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert [tracker(name) for name in (*TRACKERS, "none")] == [*TRACKERS, "none"]


def test_an_unknown_one_is_refused():
    with pytest.raises(UserError, match="must be one of tensorboard, .*, got 'foo'"):
        tracker("foo")


def test_one_whose_package_is_missing_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="wandb needs the package wandb, .*pip install wandb"):
        tracker("wandb")
