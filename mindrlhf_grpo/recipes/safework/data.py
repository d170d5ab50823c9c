"""Rows of SafeWork's data: a prompt in any of its forms, images, a reference, and the label that routes the reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ...data.images import absolute_path, image_list
from ...data.rows import BadRow, ChangedRows
from ...data.sources import read_rows
from ...errors import ConfigError, DataError
from ...rewards.builtin.constraints import read_constraints
from .registry import Component, check_labels, read_registry, read_routing
from .row_forms import first_user_text, unwrap_reference

Row = dict[str, Any]


def rows(
    path: str,
    *,
    input_key: str = "prompt",
    images_key: str = "images",
    reference_key: str = "chosen",
    label_key: str = "label",
    text_only: bool = False,
    split: str = "",
    limit: int = 0,
    models: Any = (),
    routing: str | Mapping[str, Any] = "svki",
    on_missing_rm: str = "error",
) -> list[Row | BadRow]:
    """Return rows ``{prompt, reference, label, images}`` of a data source; without any images the column is left out.

    Args:
        path: a file, folder or other source, see ``data.source``.
        text_only: refuse rows with images.
        split: which split of a folder or of a dataset on the hub.
        limit: only the first rows; 0: all.
        models, routing, on_missing_rm: as for the reward, to find labels without a judge before the run.

    Raises:
        DataError: a label is unknown to the routing, or its judge is missing.
    """
    source = read_rows(source_of(path, split))
    folder = Path(path).parent
    routes = read_routing(routing)
    keys = {"prompt": input_key, "images": images_key, "reference": reference_key, "label": label_key}
    normal = ChangedRows(source, lambda row: normal_row(row, keys, folder, routes, text_only))
    checked: list[Row | BadRow] = list(islice(normal, limit or None))
    good = [row for row in checked if not isinstance(row, BadRow)]
    try:
        check_labels(dict.fromkeys(row["label"] for row in good), routes, read_registry(models, url="-"), on_missing_rm)
    except ConfigError as error:
        raise DataError(f"{path}: {error}") from error
    if not any(row["images"] for row in good):
        for row in good:
            del row["images"]
    return checked


def source_of(path: str, split: str | None) -> str | dict[str, str]:
    """Return a path as a source, with its split where one is named."""
    return {"name": path, "split": split} if split else path


def normal_row(
    row: Mapping[str, Any],
    keys: Mapping[str, str],
    folder: Path,
    routes: Mapping[str, Sequence[Component]],
    text_only: bool,
) -> Row:
    """Return one row in its normal form; raises DataError with what is wrong."""
    images = [absolute_path(image, folder) for image in image_list(row.get(keys["images"]))]
    if images and text_only:
        raise DataError(f"it has {len(images)} images, and the run is text_only")
    extra = row.get("extra_info") if isinstance(row.get("extra_info"), Mapping) else {}
    label = row.get(keys["label"]) or (extra or {}).get(keys["label"])
    if not isinstance(label, str) or not label:
        raise DataError(f"it has no {keys['label']!r}, neither at the top nor in extra_info")
    reference = unwrap_reference(row.get(keys["reference"]))
    kinds = {part.kind for part in routes.get(label, ())}
    if "if_rule" in kinds:
        read_constraints(reference)
    elif kinds & {"rule", "gsm8k_rule", "geo3k_rule"} and reference in (None, ""):
        raise DataError(f"label {label!r} is scored by a rule, and {keys['reference']!r} is empty")
    return {
        "prompt": first_user_text(row.get(keys["prompt"])),
        "reference": reference,
        "label": label,
        "images": images,
    }
