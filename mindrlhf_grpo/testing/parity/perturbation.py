"""A weight changed on purpose, to show that a check notices it."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import ConfigError, did_you_mean
from ...model_files.folder import read_header, weight_files
from ...model_files.safetensors import as_stored, read_tensor, stored_type

WRITTEN = re.compile(r"(?P<name>[\w.]+)(\[(?P<place>\d+(,\d+)*)\])?=(?P<value>[-+]?\d*\.?\d+([eE][-+]?\d+)?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Perturbation:
    """A perturbation: ``value`` is added to every element of the weight, or to the one at ``place``."""

    name: str
    value: float
    place: tuple[int, ...] | None = None


def parse(text: str) -> Perturbation:
    """Parse ``NAME=0.01`` or ``NAME[3,5]=0.01``.

    Raises:
        ConfigError: the text has another form.
    """
    match = WRITTEN.fullmatch(text.replace(" ", ""))
    if match is None:
        raise ConfigError(f"--perturb {text}: written NAME=0.01 (all elements) or NAME[3,5]=0.01 (one element)")
    place = match["place"]
    return Perturbation(
        name=match["name"], value=float(match["value"]),
        place=None if place is None else tuple(int(number) for number in place.split(",")),
    )  # fmt: skip


def perturbed_copy(model: Path, folder: Path, perturbation: Perturbation) -> Path:
    """Copy a model folder and change the weight in the copy.

    Raises:
        ConfigError: the model has no such weight, or the weight no such element.
    """
    headers = {path.name: read_header(path) for path in weight_files(model)}
    names = [name for header in headers.values() for name in header]
    if perturbation.name not in names:
        hint = did_you_mean(perturbation.name, names)
        raise ConfigError(f"--perturb: the bundle's model has no weight {perturbation.name!r}{hint}")
    shutil.copytree(model, folder)
    file = folder / next(name for name, header in headers.items() if perturbation.name in header)
    info = read_header(file)[perturbation.name]
    place = perturbation.place
    if place is not None and (
        len(place) != len(info.shape) or any(at >= size for at, size in zip(place, info.shape, strict=True))
    ):
        raise ConfigError(f"--perturb: {perturbation.name} is {list(info.shape)}; it has no element {list(place)}")
    values = read_tensor(file, info)
    values[... if place is None else place] += np.float32(perturbation.value)
    stored = np.memmap(file, dtype=stored_type(info.dtype), mode="r+", offset=info.start, shape=(info.size,))
    stored[:] = as_stored(values, info.dtype).ravel()
    stored.flush()
    return folder
