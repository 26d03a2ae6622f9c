"""Windows whose begin and end stand in different places: ``begin_window`` and ``end_window``."""

from __future__ import annotations

import pytest

from pytest_physics.config import load_settings
from pytest_physics.instrument import outermost_work
from pytest_physics.record.verify import verify_run
from pytest_physics.session import Session


@pytest.fixture
def session(tmp_path):
    """A short run on a twin."""
    with Session.start(load_settings(tmp_path, overrides={"device": "twin:ideal"}), directory=tmp_path) as session:
        yield session


@pytest.fixture
def gpu(session):
    return session.rig.gpu


def test_a_begun_window_is_a_window_like_any_other(session, gpu):
    """The end returns it with its numbers; work may be counted at either end, and the run verifies."""
    gpu.begin_window("decode", labels={"batch": 8}, prompts=2)
    gpu.sleep(1.5)
    window = gpu.end_window("decode", tokens=512)
    assert window.duration.value == pytest.approx(1.5)
    assert window.work == {"prompts": 2, "tokens": 512}
    assert window.labels == {"batch": 8}
    assert window.per("token").gross.value == pytest.approx(window.energy.gross.value / 512)
    session.finish()
    assert verify_run(session.path).findings == ()


def test_begun_windows_nest_and_overlap_under_different_names(gpu):
    """Each keeps its own times, whatever the order of the ends."""
    gpu.begin_window("outer")
    gpu.sleep(1.0)
    gpu.begin_window("inner")
    gpu.sleep(1.0)
    outer = gpu.end_window("outer")
    gpu.sleep(1.0)
    inner = gpu.end_window("inner")
    assert outer.duration.value == pytest.approx(2.0)
    assert inner.duration.value == pytest.approx(2.0)
    assert inner.t0_ns - outer.t0_ns == 1_000_000_000


def test_a_name_can_be_used_again_once_its_window_has_ended(gpu):
    """Two events of one kind are two windows."""
    ids = []
    for _ in range(2):
        gpu.begin_window("step")
        gpu.sleep(0.1)
        ids.append(gpu.end_window("step").id)
    assert ids == ["gpu-w1", "gpu-w2"]


def test_a_window_cannot_be_begun_twice(gpu):
    """The message says since when it is open, and what to do; the open one goes on."""
    gpu.begin_window("step")
    gpu.sleep(2.0)
    with pytest.raises(ValueError, match=r"window 'step' of 'gpu' was begun 2 s ago and is still open: end it with end_window\('step'\)"):
        gpu.begin_window("step")
    assert gpu.end_window("step").duration.value == pytest.approx(2.0)


def test_a_window_that_was_not_begun_cannot_be_ended(gpu):
    """The message names the windows that are open, and the nearest one."""
    with pytest.raises(ValueError, match=r"no window 'step' of 'gpu' is open; open: none. Begin it with begin_window\('step'\)"):
        gpu.end_window("step")
    gpu.begin_window("prefill")
    with pytest.raises(ValueError, match=r"no window 'prefil' of 'gpu' is open \(did you mean 'prefill'\?\); open: 'prefill'"):
        gpu.end_window("prefil")
    gpu.end_window("prefill")
    with pytest.raises(ValueError, match="no window 'prefill'"):
        gpu.end_window("prefill")


@pytest.mark.parametrize(
    ("work", "problem"),
    [
        ({"tokens": 3}, "window 'step' counted 'tokens' when it began and again when it ended"),
        ({"items": -1}, "window 'step': 'items' must be a finite count >= 0 (got -1)"),
        ({"items": float("nan")}, "'items' must be a finite count >= 0"),
    ],
)
def test_wrong_counts_leave_the_window_open(gpu, work, problem):
    """What was begun is not lost by a wrong end."""
    gpu.begin_window("step", tokens=5)
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- the text is compared below
        gpu.end_window("step", **work)
    assert problem in str(error.value)
    assert gpu.end_window("step").work == {"tokens": 5}


def test_work_inside_of_counted_work_is_not_counted_again(gpu):
    """Tokens of a part are in the tokens of the whole; other kinds, and windows beside it, add up."""
    with gpu.window("generate", tokens=10):
        gpu.sleep(0.1)
        with gpu.window("prefill", tokens=4, requests=1):
            gpu.sleep(0.1)
        with gpu.window("decode", tokens=6):
            gpu.sleep(0.1)
    with gpu.window("generate", tokens=5):
        gpu.sleep(0.1)
    assert outermost_work(gpu.windows.values()) == {"tokens": 15, "requests": 1}


def test_windows_that_overlap_in_part_both_count(gpu):
    """Neither is inside of the other."""
    gpu.begin_window("a", tokens=1)
    gpu.sleep(0.1)
    gpu.begin_window("b", tokens=2)
    gpu.sleep(0.1)
    gpu.end_window("a")
    gpu.sleep(0.1)
    gpu.end_window("b")
    assert outermost_work(gpu.windows.values()) == {"tokens": 3}


def test_windows_without_length_count(gpu):
    """On a virtual clock code of one's own takes no time, and yet it did its work."""
    for _ in range(3):
        with gpu.window("step", tokens=2):
            pass
    assert outermost_work(gpu.windows.values()) == {"tokens": 6}
