"""The arrows between the rooms, read from the source."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# What each room may import besides itself and the ground floor. A new room is added here on purpose.
GROUND = {"system.records", "system.config", "system.errors", "system.drafts", "system.bootstrap"}
METHODS = {
    "system.logs",
    "system.pairs",
    "system.freqkd",
    "system.infrared",
    "system.labels",
    "system.miner",
    "system.store",
    "system.backbones",
    "system.report",
    "system.demo",
    "system.export",
}
ALLOWED = {
    "system.records": set(),
    "system.config": {"system.errors"},
    "system.errors": set(),
    "system.drafts": {"system.errors"},
    "system.bootstrap": set(),
    "system.logs": GROUND,
    "system.pairs": GROUND,
    "system.backbones": GROUND,
    "system.freqkd": GROUND | {"system.backbones"},
    "system.infrared": GROUND | {"system.backbones", "system.pairs"},
    "system.miner": GROUND | {"system.backbones"},
    "system.labels": GROUND | {"system.miner"},
    "system.store": GROUND,
    "system.export": GROUND | {"system.store", "system.logs", "system.miner"},
    "system.report": GROUND | {"system.miner", "system.freqkd", "system.pairs", "system.infrared"},
    "system.demo": GROUND | {"system.miner"},
    "system.pipelines": GROUND | METHODS,
    "system.training": GROUND | METHODS | {"system.pipelines"},
    "jobs": GROUND | METHODS | {"system.pipelines", "system.training", "serve"},
    "serve": GROUND | METHODS | {"system.pipelines"},
}
# Third-party packages that only some rooms may know.
KEEPERS = {
    "ray": {"system.pipelines", "system.training", "serve"},
    "fastapi": {"serve"},
    "lancedb": {"system.store"},
    "lance": {"system.store"},
    "typer": {"jobs"},
}


def _room(module: str) -> str:
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] == "system" else parts[0]


def _imports() -> list[tuple[str, str]]:
    found = []
    for folder in ("system", "jobs", "serve"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    found += [(module, alias.name) for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    assert node.level == 0, f"{file}: imports are absolute"
                    found.append((module, node.module or ""))
    return found


IMPORTS = _imports()


def test_there_are_imports_to_judge():
    assert len(IMPORTS) > 100


@pytest.mark.parametrize("module", sorted({module for module, _ in IMPORTS}))
def test_imports_follow_the_arrows(module: str):
    room = _room(module)
    if module == "system":
        return
    for importer, imported in IMPORTS:
        if importer != module:
            continue
        if imported.split(".")[0] in ("system", "jobs", "serve"):
            target = _room(imported)
            assert target == room or target in ALLOWED[room], (
                f"{module} imports {imported}: {room} must not know {target}"
            )
        keepers = KEEPERS.get(imported.split(".")[0])
        assert keepers is None or room in keepers, f"{module} imports {imported}: only {keepers} may"


def test_every_room_is_named_here():
    rooms = {_room(module) for module, _ in IMPORTS} - {"system"}
    assert rooms <= set(ALLOWED)
