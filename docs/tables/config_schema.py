"""The JSON schemas of configuration files, ``docs/config.schema.json`` (any) and ``docs/offline.schema.json`` (with an objective).

``python -m docs.tables.config_schema --write`` writes both; without ``--write`` they are printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mindrlhf_grpo.config.file import schema_text
from mindrlhf_grpo.config.offline import OfflineConfig

FOLDER = Path(__file__).resolve().parents[1]
SCHEMAS: dict[str, type[OfflineConfig] | None] = {
    "config.schema.json": None,
    "offline.schema.json": OfflineConfig,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m docs.tables.config_schema")
    parser.add_argument("--write", action="store_true", help="write them into docs/")
    write = parser.parse_args().write
    for name, root in SCHEMAS.items():
        if write:
            (FOLDER / name).write_text(schema_text(root), encoding="utf-8")
        else:
            print(schema_text(root), end="")
