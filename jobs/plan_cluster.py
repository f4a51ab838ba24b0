"""What a night on a cluster would take: nodes, hours, money, the store's growth, and what gives out first."""

from __future__ import annotations

from typing import Annotated

import typer

from system.pipelines.cluster_plan import Borne, Machine, Night, plan_cluster
from system.report.console import exit_with_code, print_figures, stdout_console
from system.report.terminal import parts_table

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    scenes: Annotated[int, typer.Option(help="Of one night.")],
    images_per_s: Annotated[
        float, typer.Option(help="Of one GPU's worker: `python -m tests.benchmarks.mining_efficiency` on such a node.")
    ],
    price_per_hour: Annotated[float, typer.Option(help="Of one node, in your money.")],
    pictures_per_scene: Annotated[float, typer.Option(help="Keyframes of all cameras.")] = 48,
    picture_kb: Annotated[float, typer.Option(help="An original, as it is read.")] = 150,
    thumbnail_kb: Annotated[float, typer.Option(help="A small picture that is kept.")] = 12,
    embedding_dim: Annotated[int, typer.Option(help="Numbers of a scene's vector.")] = 384,
    scenes_per_log: Annotated[float, typer.Option()] = 10,
    late_days: Annotated[int, typer.Option(help="Before the night, whose logs are looked at again.")] = 3,
    deadline_hours: Annotated[float, typer.Option(help="From the start to the last commit.")] = 6,
    nights: Annotated[int, typer.Option(help="That the store holds in the end.")] = 365,
    keep_nights: Annotated[
        int | None, typer.Option(help="Of them, those kept as they were, as of maintain_store.py; all, if not given.")
    ] = None,
    gpus: Annotated[int, typer.Option(help="Of a node.")] = 1,
    cpus: Annotated[int, typer.Option(help="Of a node.")] = 8,
    decoded_per_s: Annotated[float, typer.Option(help="Pictures that one CPU reads, decodes and shrinks.")] = 60,
    spot_loss: Annotated[float, typer.Option(help="Share done twice because nodes are taken away.")] = 0.05,
    start_minutes: Annotated[float, typer.Option(help="Until a node that was asked for works.")] = 8,
    most_nodes: Annotated[int, typer.Option(help="That the account may start.")] = 1000,
    head_gib: Annotated[float, typer.Option(help="Memory of the head node.")] = 32,
    commits_per_s: Annotated[float, typer.Option(help="Transactions of the driver on this object store.")] = 2,
    request_s: Annotated[float, typer.Option(help="One small request to this object store.")] = 0.03,
    listing_requests: Annotated[
        float, typer.Option(help="One after another, of each log of every day; 0 where tables name many logs.")
    ] = 1.5,
) -> None:
    """Compute, from stated assumptions, the smallest cluster that meets the deadline.

    Nothing is started. What single parts bear was measured on two CPU cores by `tests.benchmarks.store_scale`, or is
    assumed where no one machine can tell (speeds of GPUs, of the bucket, of its commits and small requests): give your
    own.

    The last line of stdout is one JSON object: nodes, hours, money, is_in_time, bound, scenes_per_s, store_gib,
    kept_nights_gib, driver_gib, parts {name, need, bears, load}, breaks_first, scales, and the assumptions.

    Exit codes: 0 done, in time or not (`is_in_time`); 2 a wrong option.
    """
    with exit_with_code():
        night = Night.parse(
            {
                "scenes": scenes,
                "pictures_per_scene": pictures_per_scene,
                "picture_kb": picture_kb,
                "thumbnail_kb": thumbnail_kb,
                "embedding_dim": embedding_dim,
                "scenes_per_log": scenes_per_log,
                "late_days": late_days,
                "deadline_hours": deadline_hours,
                "nights": nights,
                "keep_nights": keep_nights,
            },
            "options",
        )
        machine = Machine.parse(
            {
                "gpus": gpus,
                "cpus": cpus,
                "images_per_s": images_per_s,
                "decoded_per_s": decoded_per_s,
                "price_per_hour": price_per_hour,
                "spot_loss": spot_loss,
                "start_minutes": start_minutes,
                "most_nodes": most_nodes,
            },
            "options",
        )
        borne = Borne.parse(
            {
                "head_gib": head_gib,
                "commits_per_s": commits_per_s,
                "request_s": request_s,
                "listing_requests": listing_requests,
            },
            "options",
        )
        plan = plan_cluster(night, machine, borne)
        stdout_console().print(parts_table(plan))
        assumed = {
            name: value.model_dump() for name, value in (("night", night), ("machine", machine), ("borne", borne))
        }
        print_figures(plan.figures() | {"assumed": assumed})


if __name__ == "__main__":
    app()
