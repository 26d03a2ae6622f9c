"""``pytest-physics fleet submit | status | cancel | collect | report | publish``: the verbs on the command line.

Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pytest_physics.fleet.collect import Collected
    from pytest_physics.fleet.folder import FleetFolder

app = typer.Typer(
    name="fleet",
    help="The suite on many machines: one exclusive job per node or point, by Slurm or one after another on this machine.",
    no_args_is_help=True,
)

FleetArgument = Annotated[Path, typer.Argument(help="the fleet's directory, as 'fleet submit' names it", metavar="FLEET")]
TasksOption = Annotated[str, typer.Option("--tasks", help="comma-separated task numbers; default: all")]

EXIT_FAILED = 1
LOOK_S = 0.5
COLOURS = {"MERGED": "green", "RUNNING": "cyan", "WAITING": "cyan", "CANCELLED": "yellow", "INCOMPLETE": "yellow", "UNKNOWN": "yellow"}


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(  # noqa: PLR0917 -- typer calls it by keyword
    context: typer.Context,
    nodes: Annotated[str, typer.Option(help="one task on each of these nodes: 'all', or n1,n[3-5]")] = "",
    array: Annotated[Path | None, typer.Option(help="one task for each point of this points.json")] = None,
    executor: Annotated[str, typer.Option(help="auto (Slurm where it is installed), slurm or local")] = "auto",
    fleet: Annotated[Path | None, typer.Option(help="directory for plan and results, shared by the nodes; default: fleets/<id>")] = None,
    partition: Annotated[str, typer.Option(help="Slurm's partition; default: the cluster's")] = "",
    gres: Annotated[str, typer.Option(help="generic resources of each task: gpu:1")] = "",
    limit: Annotated[str, typer.Option("--time", help="limit of one task: minutes, h:mm:ss or days-hours")] = "",
    at_once: Annotated[int, typer.Option(help="most tasks at the same time; 0: as many as there are nodes")] = 0,
) -> None:
    """Submit pytest's arguments (bench/ and options) as one exclusive job per node or point, and a merge after them."""
    from pytest_physics.fleet.submit import Request, submit_fleet

    request = Request(
        pytest_args=tuple(context.args), nodes=nodes, array=array, executor=executor, fleet=fleet, partition=partition, gres=gres,
        limit=limit, at_once=at_once,
    )  # fmt: skip
    sent = submit_fleet(request, Path.cwd())
    for note in sent.notes:
        typer.secho(f"note: {note}", fg="yellow", err=True)
    typer.echo(f"{len(sent.folder.plan.points)} tasks submitted to {sent.engine}; they report to {sent.folder.path}")
    typer.echo(f"watch:   pytest-physics fleet status {sent.shown}")
    typer.echo(f"results: {sent.shown}/report.html, written when all have ended")


@app.command()
def status(
    fleet: FleetArgument,
    wait: Annotated[float, typer.Option(help="wait up to this many seconds until every task has ended")] = 0.0,
) -> None:
    """Say where every task of FLEET stands; exit code 1 while some have not ended."""
    from pytest_physics.fleet.executor import TaskState, executor_of

    folder = _folder(fleet)
    engine = executor_of(folder)
    deadline_s = time.monotonic() + wait
    pending = {TaskState.WAITING, TaskState.RUNNING, TaskState.UNKNOWN}
    found = engine.poll(folder)
    while any(seen.state in pending for seen in found.values()) and time.monotonic() < deadline_s:
        time.sleep(LOOK_S)
        found = engine.poll(folder)
    finished = folder.finished_tasks()
    for task, seen in found.items():
        word = "finished" if task in finished else seen.state.value.lower().replace("_", " ")
        said = _how(finished[task]) if task in finished else seen.reason
        typer.echo(f"{task:>5}  {folder.plan.points[task].name:<20} {word:<14} {seen.node:<12} {said}".rstrip())
    if any(seen.state in pending and task not in finished for task, seen in found.items()):
        raise typer.Exit(EXIT_FAILED)


def _how(task: Path) -> str:
    """How the pytest of a finished task ended, where not in success; 'fleet collect' judges its run."""
    from pytest_physics.fleet.folder import done_of

    done = done_of(task)
    if done is None or not (done.problem or done.exit_status):
        return ""
    return done.problem or f"pytest's exit code is {done.exit_status}"


@app.command()
def cancel(fleet: FleetArgument, tasks: TasksOption = "") -> None:
    """End tasks of FLEET; runs in progress are finalised, and what they measured stays readable."""
    from pytest_physics.fleet.executor import executor_of

    folder = _folder(fleet)
    chosen, finished = _tasks(folder, tasks), folder.finished_tasks()
    going = [task for task in chosen if task not in finished]
    executor_of(folder).cancel(folder, going)
    ended = f"; {len(chosen) - len(going)} had ended already" if len(going) < len(chosen) else ""
    typer.echo(f"{len(going)} {'task was' if len(going) == 1 else 'tasks were'} told to end{ended}")


@app.command()
def collect(
    fleet: FleetArgument,
    sources: Annotated[
        list[Path] | None, typer.Argument(help="runs copied by hand: directories or tar files", metavar="[SOURCE]...", show_default=False)
    ] = None,
) -> None:
    """Check and merge what there is, any subset, again and again; exit code 1 where a task has no usable run."""
    from pytest_physics.fleet.collect import collect as collect_fleet
    from pytest_physics.fleet.collect import refusals
    from pytest_physics.fleet.executor import executor_of
    from pytest_physics.fleet.page import build_page

    folder = _folder(fleet)
    found = collect_fleet(folder, executor_of(folder), sources=sources or ())
    _show(found)
    typer.echo(build_page(folder))
    if refusals(found):
        raise typer.Exit(EXIT_FAILED)


@app.command()
def report(fleet: FleetArgument) -> None:
    """Build FLEET's page again from what was collected last."""
    from pytest_physics.fleet.page import build_page

    typer.echo(build_page(_folder(fleet)))


@app.command()
def publish(fleet: FleetArgument, target: Annotated[Path, typer.Argument(help="directory for the copy", metavar="DIR")]) -> None:
    """Copy FLEET's page and the reports that it leads to, without raw traces, to DIR."""
    from pytest_physics.fleet.publish import publish_fleet

    typer.echo(publish_fleet(_folder(fleet), target))


def _show(found: Collected) -> None:
    for row in found.rows:
        number = "+" if row.task is None else str(row.task)
        typer.secho(f"{number:>5}  {row.point:<20} {row.outcome.value:<13} {row.identity or row.node}", fg=COLOURS.get(row.outcome, "red"))
        for text in (row.reason, row.clock_note):
            if text:
                typer.echo(f"{'':7}{text}")


def _folder(path: Path) -> FleetFolder:
    from pytest_physics.fleet.folder import FleetFolder

    folder = FleetFolder(path.resolve())
    _ = folder.plan  # a directory that is no fleet is refused here, before anything is asked of an engine
    return folder


def _tasks(folder: FleetFolder, text: str) -> list[int]:
    from pytest_physics.errors import ConfigurationError

    known = range(len(folder.plan.points))
    try:
        chosen = [int(part) for part in text.split(",")] if text else list(known)
    except ValueError:
        raise ConfigurationError(f"'--tasks {text}' must be task numbers with commas between them, such as 0,3.") from None
    strange = [task for task in chosen if task not in known]
    if strange:
        raise ConfigurationError(f"the fleet has no task {strange[0]}; its tasks are 0 to {len(known) - 1}.")
    return chosen
