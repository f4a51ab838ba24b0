"""Make a token for the server, put its hash into a token file, and print the token once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from serve.auth import SCOPES, add_token
from system.errors import ConfigError
from system.report.console import exit_with_code

app = typer.Typer(add_completion=False, rich_markup_mode="markdown", pretty_exceptions_enable=False)


@app.command()
def main(
    token_file: Annotated[Path, typer.Option(help="File to add it to; made if it is not there.")],
    name: Annotated[str, typer.Option(help="Who has it. A name that is there gets a new token for its old one.")],
    scopes: Annotated[str, typer.Option(help="Of read, detect, export, admin; with commas.")] = "read",
    days: Annotated[float, typer.Option(min=0.001, max=3660, help="It expires after so many.")] = 90.0,
) -> None:
    """A running server takes it at once; only its SHA-256 is kept."""
    with exit_with_code():
        asked = tuple(part.strip() for part in scopes.split(",") if part.strip())
        if not asked or set(asked) - set(SCOPES):
            raise ConfigError(f"--scopes {scopes!r}: expected some of {', '.join(SCOPES)}, with commas between")
        chosen = tuple(scope for scope in SCOPES if scope in asked)
        print(add_token(token_file, name, chosen, datetime.now(UTC) + timedelta(days=days)))


if __name__ == "__main__":
    app()
