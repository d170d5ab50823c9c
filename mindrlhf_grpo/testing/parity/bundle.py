"""A parity bundle on disk: a model, inputs, and what one stack computed from them. safetensors and JSON only.

``BUNDLE/manifest.json`` (settings, tolerances, versions, size and SHA-256 of every file), ``model/`` (Hugging Face
layout), ``adapter/`` (peft's layout, with LoRA), ``inputs.safetensors``, ``expected/QUANTITY/GROUP.safetensors``.
It is written under a hidden name and renamed, so a folder of the final name is complete.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from ... import __version__
from ...errors import BundleError, did_you_mean_file
from ...run.checkpoint import digest
from .quantities import Measurement
from .workload import Workload

FORMAT, VERSION = "mindrlhf-grpo parity bundle", 1
MANIFEST, INPUTS, MODEL, ADAPTER, EXPECTED = "manifest.json", "inputs.safetensors", "model", "adapter", "expected"
REMEDY = "copy the bundle again, or record it again"


class Manifest(BaseModel):
    """The manifest of a bundle.

    Attributes:
        groups: (quantity, group) of every measurement, in the order it was taken.
        layers: number of decoder layers.
        files: path in the bundle -> (bytes, SHA-256).
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    format: Literal["mindrlhf-grpo parity bundle"]
    version: int
    backend: str
    versions: dict[str, str]
    recipe: Workload
    tolerances: dict[str, float]
    groups: list[tuple[str, str]]
    layers: int
    files: dict[str, tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files have been compared with its manifest."""

    folder: Path
    manifest: Manifest

    @property
    def model(self) -> Path:
        return self.folder / MODEL

    @property
    def adapter(self) -> Path | None:
        """The LoRA adapter that training starts from, if the bundle has one."""
        return self.folder / ADAPTER if self.manifest.recipe.lora_rank else None

    def inputs(self) -> dict[str, NDArray[Any]]:
        """Arrays of ``inputs.safetensors``."""
        return read_arrays(self.folder / INPUTS)

    def expected(self, quantity: str, group: str) -> dict[str, NDArray[Any]]:
        """The recorded arrays of a group."""
        return read_arrays(expected_path(self.folder, quantity, group))


def expected_path(folder: Path, quantity: str, group: str) -> Path:
    """The file of a measurement; group names are made fit for file names."""
    name = "".join(character if character.isalnum() or character in ".-" else "_" for character in group)
    return folder / EXPECTED / quantity / f"{name}.safetensors"


def write_measurement(folder: Path, measurement: Measurement) -> None:
    """Write a measurement to its file."""
    path = expected_path(folder, measurement.quantity, measurement.group)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arrays(path, measurement.arrays)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Named arrays of any type as one safetensors file."""
    from safetensors.numpy import save_file

    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Named arrays of a safetensors file.

    Raises:
        BundleError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} cannot be read ({error}); {REMEDY}") from None
    return arrays


def create(folder: Path, fill: Callable[[Path], dict[str, Any]]) -> Bundle:
    """Write a bundle; ``fill`` writes its files into a hidden folder and returns the manifest's other fields.

    Raises:
        BundleError: the folder exists.
    """
    if folder.exists():
        raise BundleError(f"{folder} exists; give a folder that does not, or delete this one")
    partial = folder.with_name(f".writing-{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        fields = fill(partial)
        files = sorted(path for path in partial.rglob("*") if path.is_file())
        manifest = Manifest(
            format="mindrlhf-grpo parity bundle", version=VERSION,
            files={path.relative_to(partial).as_posix(): (path.stat().st_size, digest(path)) for path in files},
            **fields,
        )  # fmt: skip
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
        os.rename(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Bundle(folder, manifest)


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle and compare every file with the manifest.

    Raises:
        BundleError: no bundle, one of another version, or a file that is missing or changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        hint = "" if folder.is_dir() else did_you_mean_file(folder)
        raise BundleError(f"{str(folder)!r} is no parity bundle: there is no {path}{hint}")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        check_version(folder, fields)
        manifest = Manifest.model_validate(fields)
    except (ValueError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{path} cannot be read ({reason}); {REMEDY}") from None
    for name, (size, sha) in manifest.files.items():
        check_file(folder, name, size, sha)
    return Bundle(folder, manifest)


def check_version(folder: Path, fields: Any) -> None:
    """Refuse anything but a manifest of this version."""
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise BundleError(f"{folder / MANIFEST} is not the manifest of a parity bundle; {REMEDY}")
    if fields.get("version") != VERSION:
        raise BundleError(
            f"{folder} is a bundle of version {fields.get('version')!r}; mindrlhf-grpo {__version__} reads version "
            f"{VERSION}: use the same mindrlhf-grpo on both sides"
        )


def check_file(folder: Path, name: str, size: int, sha: str) -> None:
    """Refuse a file that is missing or changed."""
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise BundleError(f"{folder / MANIFEST} names {name!r}, which is outside of the bundle")
    path = folder / relative
    if not path.is_file():
        raise BundleError(f"{path} is missing; {REMEDY}")
    if path.stat().st_size != size or digest(path) != sha:
        raise BundleError(f"{path} is corrupt: it differs from the manifest; {REMEDY}")
