"""``pytest-physics history add | show | check | rebuild | export``: the verbs on the command line.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pytest_physics.history.command import Outcome

app = typer.Typer(name="history", help="Earlier runs: series of a metric, and whether a new run is worse.", no_args_is_help=True)

COLOURS = {
    "VALIDATED": "green", "REFUTED": "red", "INVALID": "magenta", "INCONCLUSIVE": "yellow", "refused": "red", "gone": "yellow",
    "incomplete": "yellow", "damaged": "yellow",
}  # fmt: skip

IndexOption = Annotated[
    Path | None, typer.Option("--index", help="the index; default: 'history.index' of the settings (runs/history.sqlite3)", metavar="FILE")
]
RunsArgument = Annotated[list[Path], typer.Argument(help="run directories, or directories that hold some", metavar="RUN...")]


@app.command()
def add(
    runs: RunsArgument,
    index: IndexOption = None,
    verify: Annotated[bool, typer.Option("--verify", help="recompute every number of each run first; takes seconds a run")] = False,
) -> None:
    """Add runs to the index, any number of times; exit code 1 where one cannot be used, which costs the others nothing."""
    from pytest_physics.history.command import run_add

    _say(run_add(_index(index), runs, verify=verify))


@app.command()
def show(
    metric: Annotated[str, typer.Argument(help="a metric, or words of its name: 'net batch'", metavar="[METRIC]", show_default=False)] = "",
    index: IndexOption = None,
    last: Annotated[int, typer.Option(help="runs listed for each series", min=1)] = 20,
) -> None:
    """Show the series of METRIC with its change points; without one, the metrics and the runs that cannot be used."""
    from pytest_physics.history.command import run_show

    _say(run_show(_index(index), metric, last=last))


@app.command()
def check(  # noqa: PLR0917 -- typer calls it by keyword
    runs: RunsArgument,
    index: IndexOption = None,
    delta: Annotated[float | None, typer.Option(help="claimed: no worse by more than this share (settings: 0.05)", min=0, max=1)] = None,
    last: Annotated[int | None, typer.Option(help="compare with so many of the latest valid runs (settings: 20)", min=3)] = None,
    since: Annotated[str, typer.Option(help="leave out what ran before this run or day: a change that was accepted")] = "",
    correction: Annotated[str, typer.Option(help="none, or holm: all metrics together; default: as the settings say")] = "",
    summary: Annotated[
        Path | None, typer.Option(help="write Markdown here; default: $GITHUB_STEP_SUMMARY, where that is set", metavar="FILE")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="write JUnit XML here", metavar="FILE")] = None,
) -> None:
    """Judge RUN, or several repeats of it together, against earlier valid runs; exit code 1 where a metric is worse, 10 where unknown."""
    from pytest_physics.history.command import CheckRequest, run_check

    request = CheckRequest(runs=runs, delta=delta, last=last, since=since, correction=correction, summary=summary, junit=junit)
    _say(run_check(_index(index), request, Path.cwd()))


@app.command()
def rebuild(
    places: Annotated[
        list[Path] | None, typer.Argument(help="where runs are; default: the index's directory", metavar="[DIR]...", show_default=False)
    ] = None,
    index: IndexOption = None,
) -> None:
    """Make the index anew from the run directories in and below DIR and from those it knew; nothing but the index is changed."""
    from pytest_physics.history.command import run_rebuild

    _say(run_rebuild(_index(index), places or []))


@app.command()
def export(
    output: Annotated[Path, typer.Argument(help="a new directory (parquet) or file (duckdb)", metavar="OUTPUT")],
    index: IndexOption = None,
    kind: Annotated[str, typer.Option("--format", help="parquet or duckdb")] = "parquet",
) -> None:
    """Write the index for analysts: Parquet by month, or one DuckDB file."""
    from pytest_physics.history.command import run_export

    _say(run_export(_index(index), output, kind=kind))


def _index(given: Path | None) -> Path:
    from pytest_physics.history.command import settings_of

    return given or Path(settings_of(Path.cwd())[0].index)


def _say(found: Outcome) -> None:
    for line in found.lines:
        typer.secho(line, fg=COLOURS.get(line.partition(" ")[0]))
    raise typer.Exit(found.exit_code)
