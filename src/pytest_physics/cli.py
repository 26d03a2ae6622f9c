"""The command line, ``pytest-physics``: each command imports what it needs when it runs."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from pytest_physics.errors import PhysicsError, RecordError
from pytest_physics.fleet.commands import app as fleet_app
from pytest_physics.history.commands import app as history_app
from pytest_physics.routing.commands import app as routing_app

app = typer.Typer(
    name="pytest-physics",
    help="Benchmark measurements that are valid, or say that they are not. Measure with: pytest bench/ --physics",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(fleet_app)
app.add_typer(history_app)
app.add_typer(routing_app)

importer = typer.Typer(help="Make run directories of recordings that other tools wrote.", no_args_is_help=True)
app.add_typer(importer, name="import")

RunArgument = Annotated[Path, typer.Argument(help="a run directory, as the last lines of a run name it", metavar="RUN")]

HzOption = Annotated[float, typer.Option(help="samples per second")]
DevicesOption = Annotated[
    str,
    typer.Option(
        help="comma-separated: cpu, gpu, nvml:1, twin:PRESET (default: the CPU, and the GPU where there is one)", metavar="DEVICES"
    ),
]
RunsOption = Annotated[Path | None, typer.Option("--runs", help="directory that receives the run directory (default: runs)")]

EXIT_FAILED = 1
EXIT_USAGE = 2
MAX_FINDINGS = 20


@app.command()
def verify(run: RunArgument) -> None:
    """Recompute every number and verdict of RUN from its raw artifacts, and its report; exit code 1 where anything differs."""
    from pytest_physics.record import page
    from pytest_physics.record.reader import REPORT
    from pytest_physics.record.verify import MISSING, verify_run
    from pytest_physics.report.build import built_with, render

    found = verify_run(run, render=render)
    for name, count in found.checked.items():
        typer.echo(f"{name:<10} {count} checked")
    for finding in found.findings[:MAX_FINDINGS]:
        typer.secho(f"differs: {finding.where} {finding.problem}", fg="red")
    if len(found.findings) > MAX_FINDINGS:
        typer.secho(f"… and {len(found.findings) - MAX_FINDINGS} more differences", fg="red")
    built = page.builder(page.read(run / REPORT)) if (run / REPORT).is_file() else ""
    if built and built != built_with():
        typer.echo(f"note: {REPORT} was built with {built}; here is {built_with()}, so its text was compared by its digest alone")
    if missing := [finding.where for finding in found.findings if finding.problem == MISSING]:
        names = ", ".join(missing[:MAX_FINDINGS])
        typer.secho(f"{run} lacks {names}: what rests on them cannot be checked. Restore them from the original.", fg="red", bold=True)
    elif found.findings:
        typer.secho(f"{run} does not follow from its raw artifacts: do not use its numbers.", fg="red", bold=True)
    else:
        typer.secho(f"{run}: every number and verdict follows from the raw artifacts.", fg="green", bold=True)
    if found.incomplete:
        typer.secho(f"{run} is incomplete: {found.incomplete}.", fg="yellow", bold=True)
    if not found.passed:
        raise typer.Exit(EXIT_FAILED)


@app.command()
def report(run: RunArgument) -> None:
    """Build the HTML report of RUN again, from its artifacts, and bring its line in the manifest up to date."""
    from pytest_physics.record.reader import REPORT
    from pytest_physics.record.verify import verify_run
    from pytest_physics.record.writer import renew_manifest
    from pytest_physics.report.build import build_report

    with _artifacts(run) as whole:
        found = verify_run(whole)
        built = build_report(whole)
        if whole != run:
            shutil.copyfile(built, run / REPORT)
    typer.echo(run / REPORT)
    renew_manifest(run, REPORT)
    wrong = [finding for finding in found.findings if REPORT not in finding.where]
    if wrong:
        message = f"this page shows what is recorded, and {len(wrong)} recorded values do not follow from the raw artifacts"
        typer.secho(f"warning: {message}: see 'pytest-physics verify {run}'.", fg="red", bold=True, err=True)


@app.command()
def export(
    run: RunArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="directory for the exported files")],
    formats: Annotated[str, typer.Option("--format", help="comma-separated: tr122 (CSV and JSONL schemas), parquet")] = "tr122",
) -> None:
    """Write RUN in other formats: TR122's CSV and JSONL schemas, Parquet."""
    from pytest_physics.record.export import export_run

    with _artifacts(run) as whole:
        for path in export_run(whole, output, formats=tuple(part.strip() for part in formats.split(",") if part.strip())):
            typer.echo(path)


@app.command()
def publish(
    run: RunArgument,
    target: Annotated[Path, typer.Argument(help="a new or empty directory for the copy", metavar="TARGET")],
) -> None:
    """Copy RUN to TARGET for others: its arrays packed, all else as it is; TARGET is small, and verifies."""
    from pytest_physics.record.publish import publish_run
    from pytest_physics.report.build import render

    typer.echo(publish_run(run, target, render=render))
    typer.echo("its arrays are packed: our commands read them so, 'xz -d *.xz' unpacks them for other tools")


@app.command()
def calibrate(  # noqa: PLR0917 -- typer calls it by keyword
    run: RunArgument,
    meter: Annotated[Path, typer.Argument(help="the reference meter's recording of that run, as CSV", metavar="METER")],
    time_column: Annotated[str, typer.Option(help="column of times: seconds, Unix time or ISO 8601")] = "t",
    power_column: Annotated[str, typer.Option(help="column of powers in watts")] = "w",
    instrument: Annotated[str, typer.Option(help="instrument of the run that the meter was on")] = "gpu",
    meter_uncertainty: Annotated[float, typer.Option(help="relative standard uncertainty of the meter's own scale")] = 0.0,
) -> None:
    """Calibrate a power channel with a reference meter that recorded RUN; later runs on that device correct their readings."""
    from pytest_physics.record.meter import calibrate_run

    with _artifacts(run) as whole:
        found = calibrate_run(
            whole, meter, time_column=time_column, power_column=power_column, instrument=instrument, u_meter=meter_uncertainty
        )  # fmt: skip
    scale, place = found.calibration, found.alignment
    ahead = "" if found.clock_difference_s is None else f"; its clock is {found.clock_difference_s:+.4f} s from the host's"
    typer.echo(f"aligned    on the run's load, correlation {place.correlation:.4f}, to ±{place.u_offset_s * 1e3:.2g} ms{ahead}")
    typer.echo(f"gain       {scale.gain:.5f}, u = {scale.u_gain:.2g}")
    typer.echo(f"offset     {scale.offset_w:.3f} W, u = {scale.u_offset_w:.2g} W (covariance {scale.covariance_w:.2g} W)")
    typer.echo(f"line       R² = {scale.r_squared:.6f}, residual {scale.residual_w:.3g} W, {scale.levels} levels")
    typer.echo(f"holds      from {scale.lowest_w:.4g} W to {scale.highest_w:.4g} W; kept in {found.stored}")


@app.command()
def audit(
    statements: Annotated[
        Path | None, typer.Argument(help="a statements file (YAML or JSON); see docs/audit.md", metavar="[STATEMENTS]")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="audit a run directory of ours instead")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="directory of the files that the statements attach")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="write the result as JSON")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", help="write the result as an HTML report")] = None,
) -> None:
    """Judge published claims from their own numbers; exit code 1 where one is refuted, 10 where one cannot be judged."""
    from pytest_physics.audit.command import run_audit

    found = run_audit(statements, run=run, data=data, json_file=json_file, html_file=html_file)
    colours = {"VALIDATED": "green", "REFUTED": "red", "INVALID": "magenta", "INCONCLUSIVE": "yellow", "NOT": "white"}
    for line in found.lines:
        typer.secho(line, fg=colours.get(line.partition(" ")[0]))
    raise typer.Exit(found.exit_code)


@app.command()
def monitor(  # noqa: PLR0917 -- typer calls it by keyword
    duration: Annotated[float, typer.Option(help="seconds to watch; Ctrl-C ends it earlier")] = 600.0,
    hz: HzOption = 10.0,
    devices: DevicesOption = "",
    runs: RunsOption = None,
    prometheus: Annotated[
        int | None, typer.Option(help="serve the same as Prometheus metrics at this port of this machine", metavar="PORT")
    ] = None,
    fast: Annotated[bool, typer.Option("--fast", help="simulated devices only: do not wait for real time")] = False,
) -> None:
    """Watch devices live: temperature, power, clocks, throttle reasons, headroom, time to limit; leaves a run directory behind."""
    from rich.console import Console

    from pytest_physics.live.monitor import Monitoring, run_monitor

    monitoring = Monitoring(devices=devices, duration_s=duration, hz=hz, runs=runs, prometheus=prometheus, fast=fast)
    run_monitor(monitoring, Console(), root=Path.cwd(), command=["pytest-physics", *sys.argv[1:]])


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def joint(
    training: Annotated[list[str], typer.Argument(help="the training's command, after '--'", metavar="-- COMMAND…")],
    hz: HzOption = 10.0,
    devices: DevicesOption = "",
    runs: RunsOption = None,
    margin: Annotated[float, typer.Option(help="seconds sampled before and after the training")] = 2.0,
) -> None:
    """Run a training while the devices are sampled, and join its step marks with the samples on one clock; passes its exit code on."""
    from rich.console import Console

    from pytest_physics.live.joint import run_joint
    from pytest_physics.live.monitor import Monitoring

    monitoring = Monitoring(devices=devices, hz=hz, runs=runs)
    command = ["pytest-physics", *sys.argv[1:]]
    found = run_joint(monitoring, training, Console(stderr=True), root=Path.cwd(), command=command, margin_s=margin)
    raise typer.Exit(found.exit_code)


@importer.command("rle")
def import_rle(
    files: Annotated[list[Path], typer.Argument(help="session CSVs of monitor v1 or v2, and training logs (JSON)", metavar="FILE…")],
    runs: RunsOption = None,
    utc_offset: Annotated[
        list[str] | None,
        typer.Option(
            help="hours from UTC of times without a zone, such as -5, where the writer is not known to write UTC; FILE=HOURS for one file",
            metavar="[FILE=]HOURS",
        ),
    ] = None,
) -> None:
    """Import RLE sessions and training logs: a run directory each, to replay with --physics-device replay:RUN/trace-DEVICE.npy."""
    from pytest_physics.config import load_settings
    from pytest_physics.record.reader import REPORT
    from pytest_physics.record.rle_import import import_rle as import_files
    from pytest_physics.record.rle_import import offsets_of
    from pytest_physics.record.writer import renew_manifest
    from pytest_physics.report.build import build_report

    settings = load_settings(Path.cwd())
    found = import_files(
        files,
        runs or Path(settings.runs),
        settings=settings,
        utc_offset_h=offsets_of(utc_offset or []),
        command=["pytest-physics", *sys.argv[1:]],
    )
    for note in found.notes:
        typer.secho(f"note: {note}", fg="yellow")
    for run in found.runs:
        log = f" with {run.log.name}" if run.log else ""
        typer.echo(f"{run.source.name}{log}: {', '.join(run.devices)} in {build_report(run.path).parent}")
        renew_manifest(run.path, REPORT)


@app.command()
def doctor() -> None:
    """Say what this machine can measure, and why not the rest."""
    from pytest_physics.doctor import doctor_lines

    for line in doctor_lines():
        typer.echo(line)


@contextmanager
def _artifacts(run: Path) -> Iterator[Path]:
    """The run, unpacked where it is packed. Records that contradict one another break arithmetic anywhere: one line, not a traceback."""
    from pytest_physics.record.packed import unpacked

    try:
        with unpacked(run) as whole:
            yield whole
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise RecordError(
            f"the artifacts of {run} contradict one another ({type(error).__name__}: {error}); 'pytest-physics verify {run}' says where."
        ) from error


def main() -> None:
    """Entry point: errors of this package end as one line and exit code 2."""
    try:
        app()
    except PhysicsError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise SystemExit(EXIT_USAGE) from None
