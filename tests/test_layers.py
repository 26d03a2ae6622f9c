"""Imports only point down; every module of the package is parsed, none is imported.

The table below is the picture of the architecture. An import inside a function, under ``TYPE_CHECKING`` or as
``importlib.import_module("...")`` counts like any other: it is knowledge of an upper layer. Run it alone with
``python -m pytest tests/test_layers.py``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "pytest_physics"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__init__", "plugin", "active", "outcomes", "markers", "cli", "doctor", "live", "trainer_callback"),  # surfaces, public door
    ("report", "audit", "fleet", "history", "routing"),  # what people read; many machines
    ("experiments",),  # protocols: drive a workload on an instrument
    ("claims", "session", "instrument", "short_events", "vram", "config", "record"),  # verdicts, one run's lifecycle, artifacts on disk
    ("workloads",),  # what is run
    ("sampling", "devices"),  # reading hardware
    ("metrology",),  # pure functions on arrays
    ("clock", "units", "errors", "marks"),  # the ground
)
"""Top to bottom. A module may import its own layer and those below."""

HOMES = {
    "torch": ("workloads",),
    "transformers": ("workloads",),
    "peft": ("workloads",),
    "pynvml": ("devices.nvml", "devices.discover"),
}
"""Libraries that only these modules may import."""

LIGHT = ("__init__", "plugin")
"""Loaded by every ``pytest`` run of every project: at module level the standard library and pytest only."""

METROLOGY_LIBRARIES = {"numpy", "scipy"}
METROLOGY_FORBIDDEN = {"asyncio", "io", "multiprocessing", "os", "pathlib", "shutil", "socket", "subprocess", "threading", "time"}
"""Standard library that does I/O or tells the time: not for pure functions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import of one module by another."""

    importer: str
    """Path inside the package, dotted: ``devices.nvml``; ``__init__`` for the package itself."""
    target: str
    """Absolute dotted name."""
    line: int
    at_load: bool
    """Whether loading the importer runs it: neither in a function nor under ``TYPE_CHECKING``."""

    @property
    def library(self) -> str:
        """Top-level name of the target."""
        return self.target.partition(".")[0]

    @property
    def inner(self) -> str | None:
        """Target inside the package, or None."""
        if self.library != PACKAGE:
            return None
        return self.target.partition(".")[2] or "__init__"


def imports_of(root: Path) -> list[Import]:
    """Every import in the package at ``root``."""
    modules = {_dotted(path, root): path for path in sorted(root.rglob("*.py"))}
    found: list[Import] = []
    for name, path in modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for node, at_load in _walk(tree, at_load=True):
            targets = _targets(node, package, set(modules))
            found += [Import(importer=name, target=target, line=node.lineno, at_load=at_load) for target in targets]
    return found


def _dotted(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _walk(node: ast.AST, *, at_load: bool) -> Iterator[tuple[ast.stmt | ast.expr, bool]]:
    """All imports and calls below ``node``, with whether loading the module runs them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom | ast.Call):
            yield child, at_load
        later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            later = True
        yield from _walk(child, at_load=at_load and not later)


def _targets(node: ast.stmt | ast.expr, package: str, modules: set[str]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node, package)
        inner = base.removeprefix(PACKAGE).lstrip(".")
        submodules = {".".join(filter(None, [inner, alias.name])) for alias in node.names} & modules
        return [f"{PACKAGE}.{name}" for name in sorted(submodules)] if base.startswith(PACKAGE) and submodules else [base]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in {"import_module", "__import__"}:
        return [arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
    return []


def _absolute(node: ast.ImportFrom, package: str) -> str:
    """Name that ``from … import`` starts at; ``package`` is the importer's, inside the root."""
    if not node.level:
        return node.module or ""
    parts = [] if package == "__init__" else package.split(".")
    kept = parts[: len(parts) - (node.level - 1)] if node.level > 1 else parts
    return ".".join(filter(None, [PACKAGE, *kept, node.module]))


def layer_of(module: str) -> int | None:
    """Index into :data:`LAYERS`, 0 at the top; None for a module that has no place yet."""
    room = module.partition(".")[0]
    return next((index for index, rooms in enumerate(LAYERS) if room in rooms), None)


def violations(root: Path) -> list[str]:
    """One sentence for each import that breaks a rule."""
    modules = [_dotted(path, root) for path in root.rglob("*.py")]
    homeless = sorted({name.partition(".")[0] for name in modules if layer_of(name) is None})
    problems = [f"{name}: has no place in LAYERS; give it one" for name in homeless]
    for found in imports_of(root):
        rules = (_upward, _away_from_home, _heavy, _impure)
        problems += [f"{found.importer}:{found.line}: {why}" for rule in rules if (why := rule(found))]
    return problems


def _upward(found: Import) -> str | None:
    if found.inner is None:
        return None
    own, other = layer_of(found.importer), layer_of(found.inner)
    if own is None or other is None or other >= own:
        return None
    return f"imports {found.target} from a layer above"


def _away_from_home(found: Import) -> str | None:
    homes = HOMES.get(found.library)
    if homes is None or any(f"{found.importer}.".startswith(f"{home}.") for home in homes):
        return None
    return f"imports {found.library}, which only {' and '.join(homes)} may"


def _heavy(found: Import) -> str | None:
    allowed = found.library == "pytest" or found.library in sys.stdlib_module_names
    if found.importer not in LIGHT or not found.at_load or allowed:
        return None
    return f"imports {found.target} at module level; only the standard library and pytest may load with every pytest run"


def _impure(found: Import) -> str | None:
    if found.importer.partition(".")[0] != "metrology" or found.library == PACKAGE:
        return None
    known = METROLOGY_LIBRARIES | set(sys.stdlib_module_names) - METROLOGY_FORBIDDEN
    return None if found.library in known else f"imports {found.library}; metrology is pure functions on arrays"


# --- the package -----------------------------------------------------------------------------------------------------


def test_imports_point_down():
    """The architecture's picture is true of the code."""
    assert violations(SOURCE) == []


def test_the_check_reads_the_package():
    """A check of an empty directory would also be silent: the package's own known imports are seen."""
    seen = {(found.importer, found.target) for found in imports_of(SOURCE)}
    assert ("metrology.uncertainty", "pytest_physics.units") in seen
    assert ("sampling.trace", "numpy") in seen


# --- the checker -----------------------------------------------------------------------------------------------------

CLEAN = {
    "__init__.py": "from __future__ import annotations\nfrom typing import TYPE_CHECKING\n"
    "if TYPE_CHECKING:\n    from pytest_physics.session import Session\n",
    "plugin.py": "import pytest\ndef pytest_configure(config):\n    from pytest_physics.session import Session\n",
    "session.py": "from . import config\nfrom .record.schema import Record\nfrom pytest_physics.devices import nvml\n",
    "config.py": "import pydantic\n",
    "record/__init__.py": "",
    "record/schema.py": "from ..metrology import energy\n",
    "workloads/__init__.py": "",
    "workloads/model.py": "def build():\n    import torch.nn\n    from transformers import GPT2Config\n",
    "devices/__init__.py": "",
    "devices/nvml.py": "import pynvml\nfrom pytest_physics.clock import RealClock\n",
    "metrology/__init__.py": "",
    "metrology/energy.py": "import math\nimport numpy as np\nfrom scipy import stats\nfrom ..errors import UnitError\n",
    "clock.py": "import time\n",
    "errors.py": "",
}

PLANTED = [
    ("metrology/bad.py", "from pytest_physics.devices.nvml import Nvml", "metrology.bad:1: imports pytest_physics.devices.nvml"),
    ("metrology/bad.py", "def f():\n    from pytest_physics import session", "metrology.bad:2: imports pytest_physics.session"),
    ("metrology/bad.py", "from ..record import schema", "metrology.bad:1: imports pytest_physics.record.schema"),
    ("devices/bad.py", "from .. import config", "devices.bad:1: imports pytest_physics.config"),
    ("devices/bad.py", "import pytest_physics", "devices.bad:1: imports pytest_physics from"),
    ("devices/deep/bad.py", "from ...workloads.model import build", "devices.deep.bad:1: imports pytest_physics.workloads.model"),
    (
        "devices/bad.py",
        "import importlib\nx = importlib.import_module('pytest_physics.session')",
        "devices.bad:2: imports pytest_p",
    ),
    (
        "record/bad.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pytest_physics.plugin import X",
        "record.bad:3: imports pytest_physics.plugin",
    ),
    ("record/bad.py", "import torch", "record.bad:1: imports torch, which only workloads may"),
    ("session.py", "def f():\n    import transformers.models", "session:2: imports transformers, which only workloads may"),
    ("session.py", "from importlib import import_module\nimport_module('torch')", "session:2: imports torch"),
    ("devices/nvml_bad.py", "import pynvml", "devices.nvml_bad:1: imports pynvml, which only devices.nvml and devices.discover"),
    ("plugin.py", "import numpy", "plugin:1: imports numpy at module level"),
    ("plugin.py", "import pytest_physics.session", "plugin:1: imports pytest_physics.session at module level"),
    ("plugin.py", "try:\n    import rich\nexcept ImportError:\n    rich = None", "plugin:2: imports rich at module level"),
    ("plugin.py", "class A:\n    import yaml", "plugin:2: imports yaml at module level"),
    ("__init__.py", "from pytest_physics.session import Session", "__init__:1: imports pytest_physics.session at module level"),
    ("metrology/bad.py", "import pytest", "metrology.bad:1: imports pytest; metrology is pure"),
    ("metrology/bad.py", "from pathlib import Path", "metrology.bad:1: imports pathlib; metrology is pure"),
    ("metrology/bad.py", "import time", "metrology.bad:1: imports time; metrology is pure"),
    ("attic/bad.py", "", "attic: has no place in LAYERS"),
]


@pytest.fixture
def package(tmp_path) -> Path:
    root = tmp_path / PACKAGE
    for name, text in CLEAN.items():
        _write(root / name, text)
    return root


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_the_checker_is_silent_on_a_clean_package(package):
    """Downward, sideways, relative, lazy and type-only imports are all allowed where they belong."""
    assert violations(package) == []


@pytest.mark.parametrize(("name", "text", "message"), PLANTED)
def test_the_checker_finds_a_planted_violation(package, name, text, message):
    """One planted line, one sentence that names module, line and rule."""
    _write(package / name, text)
    (problem,) = violations(package)
    assert problem.startswith(message)
