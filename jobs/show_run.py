"""Show what a mining run did, and what it put into quarantine and why."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from system.report.console import exit_with_code, print_figures, stdout_console
from system.report.terminal import quarantine_table, runs_table
from system.store.lease import current_holder
from system.store.location import StoreLocation
from system.store.runs import read_quarantine, read_run, read_runs

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    store: Annotated[str, typer.Option(help="Store that jobs/mine_fleet.py filled.")],
    run: Annotated[str, typer.Option(help="Id of a run, or `latest`.")] = "latest",
    all_quarantine: Annotated[bool, typer.Option(help="Show the faults of all runs, not only of this one.")] = False,
    top: Annotated[int, typer.Option(help="Faults to show at most.")] = 50,
) -> None:
    """Show a run: its figures, how long each stage took, and every fault with file or id, expected and actual.

    The last line of stdout is one JSON object with the run's figures, its quarantine by code, the vector index with the
    recall that was measured (null where search is exact), and who holds the store.
    """
    with exit_with_code():
        location = StoreLocation.parse(store)
        record = read_run(location, run)
        faults = read_quarantine(location, None if all_quarantine else record.run_id)
        console = stdout_console()
        console.print(runs_table(read_runs(location)))
        console.print(quarantine_table(faults[:top], len(faults)))
        holder = current_holder(location)
        print_figures(
            {
                "run_id": record.run_id,
                "status": record.status,
                **record.report["figures"],
                "vector_index": record.report.get("vector_index"),
                "quarantine_by_code": dict(Counter(fault["code"] for fault in faults)),
                "held_by": None if holder is None else str(holder),
            }
        )


if __name__ == "__main__":
    app()
