"""Label scene windows from what their logs say."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from system.errors import DataError
from system.labels.rules import load_rules
from system.labels.table import disagreements, read_given, read_labels, tag_counts, write_labels
from system.logs.windows import WindowConfig
from system.miner.taxonomy import load_taxonomy
from system.pipelines.labelling import label_logs
from system.report.console import ConsoleProgress, exit_with_code, print_figures, stdout_console
from system.report.terminal import disagreements_table, label_table

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    logs: Annotated[list[str], typer.Option(help="Folder, file or URI (s3://...) with logs. May be repeated.")],
    out: Annotated[str, typer.Option(help="Label table (Parquet) to write.")],
    rules: Annotated[
        str | None, typer.Option(help="TOML file of rules in place of ours (system/labels/rules.toml).")
    ] = None,
    taxonomy: Annotated[str | None, typer.Option(help="TOML file with other tags than the 20 of ours.")] = None,
    given: Annotated[
        str | None, typer.Option(help="Your own labels, before all rules: CSV with scene_id (or log id), tag, value.")
    ] = None,
    window_s: Annotated[float, typer.Option(help="Length of a scene window, in seconds.")] = 4.0,
    stride_s: Annotated[float | None, typer.Option(help="From window to window; the length, if not given.")] = None,
    keyframe_hz: Annotated[float, typer.Option(help="At most so many pictures a second and camera are used.")] = 2.0,
) -> None:
    """Label scenes present, absent or unknown for every tag, and with the risk that physics gives their tracks.

    Labels come from annotations, tracks, ego motion, class masks, a simulator's truth and the makers' descriptions, by
    rules that you can read and change; the table keeps what every rule said. Windows and scene ids are those of
    jobs/mine_fleet.py with the same options.

    The last line of stdout is one JSON object: scenes, groups, with_risk, faults, tags {tag: {present, absent,
    unknown}}, without_positive, disagreements, labels.

    Exit codes: 0 done; 2 a wrong option; 3 unreadable input, an unknown tag or id, or no scene at all.
    """
    with exit_with_code():
        known = load_taxonomy(taxonomy)
        chosen = load_rules(rules, known)
        own = read_given(given, known.names) if given else {}
        windows = WindowConfig.of_options(window_s, stride_s, keyframe_hz)
        with ConsoleProgress("labelling") as progress:
            done = label_logs(tuple(logs), windows, chosen, known, own, progress=progress)
            for where, why in done.faults:
                progress.note(f"not labelled: {where}: {why}")
        if not done.rows:
            raise DataError("no_scenes", f"no scene of {', '.join(logs)} could be labelled")
        write_labels(out, done.rows, known, chosen)
        labels = read_labels(out, known)
        counts, pairs = tag_counts(labels, known), disagreements(done.rows)
        rules_of = {tag: Counter(v.rule for row in done.rows for v in row.votes if v.tag == tag) for tag in known.names}
        console = stdout_console()
        console.print(label_table(counts, rules_of))
        if pairs:
            console.print(disagreements_table(pairs))
        print_figures(
            {
                "scenes": len(labels),
                "groups": len(set(labels.groups)),
                "with_risk": sum(row.risk is not None for row in done.rows),
                "faults": len(done.faults),
                "tags": counts,
                "without_positive": [tag for tag, count in counts.items() if not count["present"]],
                "disagreements": pairs,
                "labels": out,
            }
        )


if __name__ == "__main__":
    app()
