"""Keep a store fast and small, or erase one log from it for good."""

from __future__ import annotations

from typing import Annotated

import typer

from system.errors import ConfigError, DataError
from system.logs import files
from system.report.console import exit_with_code, print_figures
from system.report.log_lines import LOGGER
from system.store.forget import forget_log
from system.store.forget_plan import ForgetWork, plan_forgetting
from system.store.lease import Lease
from system.store.location import StoreLocation
from system.store.maintain import MaintainConfig, maintain_store
from system.store.runs import new_run_id

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    store: Annotated[str, typer.Option(help="Store that jobs/mine_fleet.py filled.")],
    keep_days: Annotated[float, typer.Option(help="Versions that are younger stay, as do tagged ones.")] = 7.0,
    orphan_days: Annotated[
        float, typer.Option(help="Files that no version names stay so long, and no less than --keep-days.")
    ] = 1.0,
    keep_nights: Annotated[
        int | None, typer.Option(help="Nights whose tagged versions stay, the newest; all, if not given.")
    ] = None,
    forget: Annotated[str | None, typer.Option(help="Id of a log that is to be erased.")] = None,
    source: Annotated[str | None, typer.Option(help="Of that log, where several sources have one of this id.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Erase; without it, only what would go is told.")] = False,
    keep_source: Annotated[
        bool, typer.Option("--keep-source", help="Erase it from the store though it still lies where it was mined.")
    ] = False,
    prove: Annotated[
        bool, typer.Option("--prove/--no-prove", help="Look in every byte of the store for what is left of the log.")
    ] = True,
) -> None:
    """Compact, bring indices up to date, remove old versions and what killed runs left.

    Others may search meanwhile, and one may mine: what it could miss is left alone then. With --keep-nights, versions
    of older nights lose their tags and can be asked for no more; those that a saved set is of stay, and all of them
    while somebody writes.

    With --forget, a log goes from every table and version, index, picture, saved set and report, nobody may write
    meanwhile, and tags of versions that held it go too. Exports and older versions of objects in a bucket that keeps
    them are not reached. A call that was killed, or whose proof failed, is repeated as it was; with --no-prove it ends
    without a proof. A log that still lies where it was mined would be mined again, so that it has to be deleted there
    first.

    The last line of stdout is one JSON object: bytes, fragments and versions before and after, unindexed_share,
    held_by, tags_removed; with --forget: scenes, rows by table, tags_removed, sets_changed, bytes_found_after, which is
    0; is_id_sought: whether the proof looked for the id by itself, which it does not where a text that stays holds it;
    sources_left and sources_unknown: where the log still lies, and places that do not answer.

    Exit codes: 0 done; 2 a wrong option, an unknown log, or one that still lies at its source; 4 the store, or who
    holds it; 6 something of the log is left.
    """
    with exit_with_code():
        location, run_id = StoreLocation.parse(store), new_run_id()
        if forget is None:
            if source is not None or yes or keep_source:
                raise ConfigError("--source, --yes and --keep-source go with --forget")
            config = MaintainConfig.parse(
                {"keep_days": keep_days, "orphan_days": orphan_days, "keep_nights": keep_nights}, "options"
            )
            print_figures(maintain_store(location, config, run_id).figures())
            return
        if not yes:
            work = plan_forgetting(location, forget, source)
            figures = {"log_id": forget, "scenes": len(work.scene_ids), "pieces": len(work.pieces), "erased": False}
            print_figures(figures | _tell_sources(work))
            return
        with Lease(location, run_id) as lease:
            work = plan_forgetting(location, forget, source)
            sources = _tell_sources(work)
            if sources["sources_left"] and not keep_source:
                raise ConfigError(
                    f"log {forget} still lies at {', '.join(sources['sources_left'])}: delete it there first, or the "
                    "next night mines it again; --keep-source erases it from the store all the same"
                )
            report = forget_log(location, work, lease, prove)
        print_figures(report.figures() | sources | {"erased": True, "is_proven": prove})


def _tell_sources(work: ForgetWork) -> dict[str, list[str]]:
    """Where the log still lies, and where that is not known: a warning each, and the figures."""
    left, unknown = list[str](), list[str]()
    for uri in work.log_uris:
        try:
            if files.exists(uri):
                left.append(uri)
                LOGGER.warning("%s: the log still lies there; the next night mines it again unless it is deleted", uri)
        except DataError as error:
            unknown.append(uri)
            LOGGER.warning("%s; if the log still lies there, the next night mines it again", error)
    return {"sources_left": left, "sources_unknown": unknown}


if __name__ == "__main__":
    app()
