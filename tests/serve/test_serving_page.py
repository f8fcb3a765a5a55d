"""The Python that docs/serving.md shows runs against a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving.md"


def test_the_pages_examples_run(server_url: str) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    known: dict[str, Any] = {}
    for block in blocks:
        assert "http://127.0.0.1:8001" in block or "client." in block
        exec(block.replace("http://127.0.0.1:8001", server_url).replace('model="sft"', 'model="plain"'), known)
    assert len(known["scores"]) == 2
    assert isinstance(known["best"].choices[0].reward, float)
