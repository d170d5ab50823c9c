"""Package metadata. Core and both backends travel in one wheel; extras bring the frameworks."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "mindrlhf_grpo/__init__.py").read_text()).group(1)
BACKENDS = find_packages("backends")

setup(
    name="mindrlhf-grpo",
    version=VERSION,
    description="Post-training of language models (GRPO, PPO, DPO, reward models, SFT) on PyTorch and MindSpore",
    long_description=(HERE / "README.md").read_text() if (HERE / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    packages=find_packages(include=["mindrlhf_grpo", "mindrlhf_grpo.*"]) + BACKENDS,
    package_dir={name: f"backends/{name.replace('.', '/')}" for name in BACKENDS},
    package_data={
        "mindrlhf_grpo": [
            "py.typed",
            "capacity/*.yaml",
            "config/*.yaml",
            "metrics/*.yaml",
            "report/*.html",
            "report/*.js",
            "report/*.css",
            "testing/parity/*.html",
            "testing/parity/*.css",
            "recipes/**/*.yaml",
            "recipes/**/*.json",
            "recipes/**/*.txt",
            "recipes/**/*.jinja",
        ]
    },
    install_requires=[
        "numpy>=1.26",
        "pydantic>=2.7",
        "pyyaml>=6",
        "typer>=0.12",
        "rich>=13",
        "jinja2>=3.1.6",
        "httpx>=0.27",
        "plotly>=5",
        "tokenizers>=0.20",
        "transformers>=5.0",
        "safetensors>=0.4",
        "datasets>=3",
        "pyarrow>=15",
        "math-verify[antlr4_13_2]>=0.8",
        "psutil>=5",
    ],
    extras_require={
        "torch": ["torch>=2.6", "peft>=0.13", "accelerate>=1"],
        "mindspore": ["mindspore==2.10.0", "numpy<2"],
        "vllm": ["vllm>=0.10"],
        "wandb": ["wandb>=0.17"],
        "tensorboard": ["tensorboard>=2.16"],
        "tokenizers": ["sentencepiece>=0.2", "tiktoken>=0.7", "protobuf>=4"],
        "tasks": ["reasoning-gym>=0.1.20"],
        "vision": ["pillow>=10"],
        "bedrock": ["boto3>=1.34"],
        "gguf": ["gguf>=0.10"],
        "dev": ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6.100", "ruff==0.17.5", "mypy>=1.11", "types-PyYAML"],
    },
    entry_points={
        "console_scripts": ["mindrlhf-grpo=mindrlhf_grpo.cli.main:main"],
        "mindrlhf_grpo.backends": ["torch=mindrlhf_grpo_torch", "mindspore=mindrlhf_grpo_mindspore"],
    },
)
