"""The training workload: seeded to the last bit, with ramps, on text and a tokeniser of its own."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_physics.errors import ConfigurationError
from pytest_physics.workloads.training import VOCABULARY, Training, TrainingSetting, encoded_text, ramp, sentences


def run(setting, **options):
    """All marks of a training."""
    marks = []
    Training(setting).run(lambda *values: marks.append(values), **options)
    return np.array(marks)


def test_a_seeded_training_repeats_to_the_last_bit():
    """Loss and gradient norm of every step; another seed gives others."""
    setting = TrainingSetting(steps=12, threads=1)
    first = run(setting)
    np.testing.assert_array_equal(first, run(setting))
    assert not np.array_equal(first, run(TrainingSetting(steps=12, threads=1, seed=1)))


def test_the_beginning_of_a_training_is_that_of_the_whole():
    """Ended early, it keeps the schedule of the whole."""
    setting = TrainingSetting(steps=20, threads=1)
    np.testing.assert_array_equal(run(setting, until=6), run(setting)[:6])


def test_a_length_in_seconds_sets_the_steps_and_nothing_else():
    """The passes that tell it change no weight: the first step is that of any training of this seed at that level."""
    timed = run(TrainingSetting(steps=60, seconds=1e-6, threads=1), until=1)
    counted = run(TrainingSetting(steps=50, threads=1), until=1)
    np.testing.assert_array_equal(timed, counted)


def test_it_learns():
    """The text has a law, so the loss falls."""
    marks = run(TrainingSetting(steps=60, threads=1))
    assert marks[-10:, 1].mean() < marks[:10, 1].mean() - 0.5


def test_lora_trains_only_its_adapters():
    """The weights of the Llama shape stay as they are."""
    training = Training(TrainingSetting(shape="llama-lora", steps=3, threads=1))
    assert {name.split(".")[-3] for name, p in training.model.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}
    before = {name: p.detach().clone() for name, p in training.model.named_parameters() if not p.requires_grad}
    training.run(lambda *_: None)
    assert all((p == before[name]).all() for name, p in training.model.named_parameters() if name in before)


@pytest.mark.parametrize("steps", [3, 10, 300])
def test_the_schedule_rises_stays_and_falls(steps):
    """Never 0, at most 1, symmetric."""
    levels = np.array([ramp(step, steps) for step in range(steps)])
    assert levels.min() > 0
    assert levels.max() == 1
    np.testing.assert_allclose(levels, levels[::-1])


def test_the_text_and_its_tokens_are_seeded():
    """Words of a small grammar in a vocabulary that fits the models."""
    assert sentences(0, 3) == sentences(0, 3) != sentences(1, 3)
    tokens = encoded_text(0)
    assert tokens.max() < VOCABULARY
    assert tokens.size > 10_000


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"shape": "distilgpt"}, "did you mean 'distilgpt2'"),
        ({"steps": 2}, "'steps' must be >= 3"),
        ({"seconds": 0.0}, "'seconds' must be > 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(wrong, words):
    """With the remedy."""
    with pytest.raises(ConfigurationError, match=words):
        TrainingSetting(**wrong)
