"""``pytest-physics routing USAGE COSTS``, and ``routing plan | point | merge`` for a sweep on a cluster: the verbs on the command line.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

EXIT_FAILED = 1
COLOURS = {"VALIDATED": "green", "REFUTED": "red", "INVALID": "magenta", "INCONCLUSIVE": "yellow"}


class JudgeUnlessNamed(TyperGroup):
    """``routing usage.json costs.json`` is ``routing judge usage.json costs.json``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 -- click's context
        """Put the command in front where none is named."""
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["judge", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="routing",
    cls=JudgeUnlessNamed,
    help="Judge a recorded usage of experts (USAGE COSTS); or plan, run and merge the points of a sweep on a cluster.",
    no_args_is_help=True,
)

RunsOption = Annotated[Path, typer.Option("--runs", help="directory that receives the run directory")]


@app.command()
def judge(  # noqa: PLR0917 -- typer calls it by keyword
    usage: Annotated[Path, typer.Argument(help="slots per expert as JSON; see docs/routing.md", metavar="USAGE")],
    costs: Annotated[Path, typer.Argument(help="joules per slot of each expert as JSON", metavar="COSTS")],
    tokens: Annotated[int | None, typer.Option(help="tokens that were routed", min=1)] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", help="experts per token")] = None,
    lambda_: Annotated[str | None, typer.Option("--lambda", help="λ in 1/J per slot: 0.1 or 0.1/J")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result as JSON")] = None,
) -> None:
    """Judge a recorded usage against the energy–diversity bound; exit code 1 where a claim is refuted, 10 where one cannot be judged."""
    from pytest_physics.routing.command import run_judge

    found = run_judge(usage, costs, tokens=tokens, top_k=top_k, lambda_=lambda_, json_file=json_file)
    for line in found.lines:
        typer.secho(line, fg=COLOURS.get(line.partition(" ")[0]))
    raise typer.Exit(found.exit_code)


@app.command()
def plan(  # noqa: PLR0917 -- typer calls it by keyword
    output: Annotated[Path, typer.Argument(help="the points file to write", metavar="POINTS")],
    routers: Annotated[str, typer.Option(help="comma-separated names")] = "published,penalised",
    lambdas: Annotated[str, typer.Option(help="comma-separated λ in 1/J; 0 is the control")] = "0,0.01,0.1,0.5,1",
    gates: Annotated[int, typer.Option(help="seeded gates", min=1)] = 12,
    batches: Annotated[int, typer.Option(help="batches of each point", min=12)] = 100,
    field: Annotated[str, typer.Option(help="thermal field of the experts")] = "published",
) -> None:
    """Write a points file: every router at every λ on every gate. The defaults are the published grid."""
    from pytest_physics.routing.command import run_plan

    typer.echo(run_plan(output, routers=routers, lambdas=lambdas, gates=gates, batches=batches, field=field))


@app.command()
def point(
    points: Annotated[Path, typer.Argument(help="the points file", metavar="POINTS")],
    index: Annotated[int, typer.Option(help="number of the point, from 0: a task of a job array gives its own")],
    runs: RunsOption = Path("runs"),
) -> None:
    """Run one point of a points file as a run of its own."""
    from pytest_physics.routing.points import run_point

    typer.echo(run_point(points, index, runs=runs, root=Path.cwd(), command=["pytest-physics", *sys.argv[1:]]))


@app.command()
def merge(
    parts: Annotated[list[Path], typer.Argument(help="run directories of all points", metavar="RUN...")],
    runs: RunsOption = Path("runs"),
) -> None:
    """Merge runs of points into one run with results and a report; refuses runs with other costs, seeds or sizes."""
    from pytest_physics.routing.points import merge as merged

    found = merged(parts, runs=runs, root=Path.cwd(), command=["pytest-physics", *sys.argv[1:]])
    for line in found.lines:
        typer.echo(line)
    typer.echo(f"run:    {found.path}")
    typer.echo(f"report: {found.report}")
