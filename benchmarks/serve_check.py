"""A check of recipes against a real chat server: vLLM with SmolLM2 on this machine, killed halfway and restarted.

Two jobs: samples of RAIDEN-R1 from the example's profiles, resumed after the server was killed; and answers scored by
SafeWork-R1's judges, which wait for the server to come back. Asserts that nothing is lost and nothing doubled, and
prints one JSON line. SmolLM2 writes badly, so the figures are counts, not quality.

    python benchmarks/serve_check.py --server-python .venv-serve/bin/python --model models/SmolLM2-135M-Instruct
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from mindrlhf_grpo.recipes.safework.registry import package_data, package_path
from mindrlhf_grpo.rewards.judges.judge import build_judge
from mindrlhf_grpo.rewards.judges.models import OnServer, Place

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "examples" / "raiden"
START_LIMIT = 600.0  # seconds for a server to load on a busy machine
SAMPLES = 6  # SBK samples of each profile, and one CM sample
QUESTIONS = 4  # exchanges that every judge scores


class Server:
    """vLLM's OpenAI server in a separate process group, on the same port at every start."""

    def __init__(self, python: str, model: Path, log: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        self.starts: list[float] = []
        self._command = [
            python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model.resolve()), "--dtype", "bfloat16",
            "--served-model-name", "smollm2", "--enforce-eager", "--max-model-len", "2048", "--max-num-seqs", "16",
            "--host", "127.0.0.1", "--port", str(self.port),
        ]  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and return when it serves the model."""
        began = time.monotonic()
        quiet = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
        quiet |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_WAIT_POLICY": "PASSIVE"}  # a busy machine is no failure
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env={**os.environ, **quiet}, stdout=log, stderr=log, start_new_session=True
            )
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() - began > START_LIMIT:
                self.kill()
                raise SystemExit(
                    f"vLLM did not start; {self.log} ends:\n{self.log.read_text(errors='replace')[-2000:]}"
                )
            time.sleep(0.5)
        self.starts.append(round(time.monotonic() - began, 1))

    def kill(self) -> None:
        """Kill the server and its child processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def _serves(self) -> bool:
        try:
            return httpx.get(f"{self.url}/v1/models", trust_env=False, timeout=5).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Yield a server that is stopped after the block, whatever happens."""
    try:
        server.start()
        yield
    finally:
        server.kill()


def main() -> None:
    """Run both checks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server-python", required=True, help="Python of an environment with vLLM.")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "SmolLM2-135M-Instruct")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the server must not outlive this process
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        server = Server(arguments.server_python, arguments.model, work / "server.log")
        with running(server):
            generated = generate(server, work)
            judged = judge(server)
    print(json.dumps({"server": "vllm", "start_seconds": server.starts, "generation": generated, "judges": judged}))


# ---- samples


def generate(server: Server, work: Path) -> dict[str, Any]:
    """Generate samples in two attempts, the server killed in the first; return the counts of the results."""
    journal = work / "data" / "journal.jsonl"
    profiles = english_profiles(work / "profiles.jsonl")
    jobs = profiles * (SAMPLES + 1)
    first = start_generation(server, work)
    while len(finished(journal)) < jobs // 3:
        if first.poll() is not None:
            raise SystemExit(f"generation ended before the server was killed: {first.communicate()[1][-2000:]}")
        time.sleep(0.05)
    server.kill()
    output, errors = first.communicate(timeout=300)
    before = finished(journal)
    assert first.returncode == 4, (first.returncode, output, errors)  # a server that is gone
    assert "run the same command again" in errors
    assert "Traceback" not in errors
    assert jobs // 3 <= len(before) < jobs

    server.start()
    second = start_generation(server, work)
    output, errors = second.communicate(timeout=1800)
    assert second.returncode == 0, errors[-2000:]
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    after = finished(journal)
    assert list(after)[: len(before)] == list(before), "what was done has changed its place"
    assert all(after[key] == before[key] for key in before), "what was done has been done again"
    assert len(after) == found["wanted"] == jobs, "a sample is lost"
    kept = [result["sample"] for result in after.values() if result["sample"]]
    written = [sample for name in ("train", "validation") for sample in read(work / "data" / f"{name}.json")]
    assert Counter(map(canonical, written)) == Counter(map(canonical, kept)), "lost or doubled in the files"
    assert found["done_before"] == len(before)
    return {name: found[name] for name in ("wanted", "done_before", "kept", "given_up", "refused", "discarded")}


def english_profiles(path: Path) -> int:
    """Write the example's profiles that fit SmolLM2; return their number."""
    lines = (EXAMPLE / "profiles.jsonl").read_text(encoding="utf-8").splitlines()
    english = [line for line in lines if json.loads(line)["prompt"].isascii()]
    path.write_text("".join(f"{line}\n" for line in english), encoding="utf-8")
    return len(english)


def start_generation(server: Server, work: Path) -> subprocess.Popen[str]:
    """Return the recipe's command as a user types it."""
    command = [
        sys.executable, "-m", "mindrlhf_grpo", "recipe", "raiden", "generate", "--profiles_file",
        str(work / "profiles.jsonl"), "--output_dir", str(work / "data"), "--base_url", server.url, "--language", "en",
        "--num_samples_per_profile", str(SAMPLES), "--include_cm", "--max_tokens", "40", "--attempts", "2",
        "--retries", "1", "--concurrency", "4",
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(journal: Path) -> dict[str, Any]:
    """Read the result of each job from the journal; a job that occurs twice fails the check."""
    if not journal.exists():
        return {}
    whole = journal.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()[1:]
    rows = [json.loads(line) for line in whole]
    assert len({row["key"] for row in rows}) == len(rows), "a job is done twice"
    return {row["key"]: row["result"] for row in rows}


def read(path: Path) -> list[Any]:
    found: list[Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def canonical(sample: Any) -> str:
    return json.dumps(sample, sort_keys=True)


# ---- judges


def judge(server: Server) -> dict[str, Any]:
    """Let every judge score the same exchanges; the server is killed during the first and restarted."""
    found: dict[str, Any] = {}
    model = OnServer(Place(server=server.url, options={"retries": 12, "backoff": 0.5, "concurrency": 4, "timeout": 60}))
    restart = threading.Thread(target=lambda: (time.sleep(0.3), server.kill(), server.start()))
    restart.start()
    for name, settings in package_data("judges.yaml").items():
        scores, unread = build_judge(settings_of(settings), label=name).scores(model, exchanges())
        assert len(scores) == QUESTIONS
        assert not any(score != score for score in scores), f"{name} left a score out"
        found[name] = {"scored": len(scores), "unreadable": unread}
    restart.join()
    found["tried_again"] = model.server.retried
    model.release()
    assert found["tried_again"] > 0, "the server was killed and nobody noticed"
    return found


def exchanges() -> list[dict[str, str]]:
    """Return the example's questions with their answers."""
    rows = [row for row in read(EXAMPLE / "train.json") if row["metadata"]["language"] in ("en", "zh")][:QUESTIONS]
    return [
        {"question": row["question"], "response": row["answer"], "thought": row["answer"], "reference": row["answer"]}
        for row in rows
    ]


def settings_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Build a judge of the recipe with the paths of its templates."""
    own = {name: value for name, value in settings.items() if name != "image"}

    def placed(template: dict[str, str]) -> dict[str, str]:
        return {language: str(package_path(file)) for language, file in template.items()}

    own["template"] = placed(own["template"])
    own["variants"] = {name: placed(template) for name, template in own.get("variants", {}).items()}
    return own


if __name__ == "__main__":
    main()
