"""CI runs the README's own commands: the extractor finds exactly the marked block, or says why not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / ".ci" / "readme-command"

README = """# Title

## Test

```bash
not this one
```

<!-- command: test -->

```bash
python3 -m venv .venv &&
  .venv/bin/pytest tests/
```

<!-- command: bench -->
```
pytest bench/ --physics
```
"""


@pytest.fixture
def extract(tmp_path):
    def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "README.md"
        path.write_text(text, encoding="utf-8")
        return subprocess.run([sys.executable, SCRIPT, *arguments, path], capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize(
    ("name", "expected"),
    [("test", "python3 -m venv .venv &&\n  .venv/bin/pytest tests/\n"), ("bench", "pytest bench/ --physics\n")],
)
def test_a_marked_block_is_printed_as_it_is_written(extract, name, expected):
    """With or without a language and a blank line; other blocks are not touched."""
    done = extract(README, name)
    assert (done.returncode, done.stdout) == (0, expected)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("# nothing\n", "found 0"),
        (README + "\n<!-- command: test -->\n```\nx\n```\n", "found 2"),
        ("<!-- command: test -->\nprose between\n```\nx\n```\n", "no fenced block"),
        ("<!-- command: test -->\n```\n\n```\n", "no fenced block"),
        ("<!-- command: test -->\n```\nnever closed\n", "no fenced block"),
        ("<!-- command: tests -->\n```\nx\n```\n", "found 0"),
    ],
)
def test_anything_else_is_an_error_that_says_why(extract, text, reason):
    """CI must not run an empty command, nor the wrong one of two."""
    done = extract(text, "test")
    assert (done.returncode, done.stdout) == (1, "")
    assert reason in done.stderr


def test_a_missing_name_shows_the_usage(extract):
    """Wrong use is an error too."""
    done = extract(README, "test", "second", "third")
    assert done.returncode == 1
    assert "usage" in done.stderr
