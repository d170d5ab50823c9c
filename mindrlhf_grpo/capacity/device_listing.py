"""Print the devices that a backend's module finds here: ``python -m mindrlhf_grpo.capacity.device_listing MODULE``.

A process of its own, so that a broken driver does not take ``mindrlhf-grpo doctor`` along; the last line is JSON.
"""

from __future__ import annotations

import importlib
import json
import sys


def main() -> None:
    """List the devices of the module named on the command line."""
    print(json.dumps(importlib.import_module(sys.argv[1]).list_devices()))


if __name__ == "__main__":
    main()
