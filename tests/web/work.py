"""Tasks of every kind, with text that tries to break the pages, and forms filled in as browsers fill them in."""

from __future__ import annotations

import re
from typing import Any

from heedful.conversation import turns_of
from heedful.labeling.database.connection import Database
from heedful.labeling.queue import items
from heedful.labeling.queue.kinds import Phase, TaskKind
from heedful.records import Prompt, Response

HOSTILE = (
    "</textarea><script>alert(1)</script><img src=x onerror=alert(2)> \"quoted\" 'single' & {{ 7 * 7 }} {% raw %}\n"
    "[link](javascript:alert(3)) \u202eright to left\u202c مرحبا بالعالم 你好 🙂"
)
PROMPT = f"Tell me about whales, please. {HOSTILE}"
OUTPUTS = (
    "Whales are mammals.\n  They  breathe air.",
    "Whales are fish.",
    HOSTILE,
    "",
    "كتابة من اليمين",
    "long " * 400,
    "Whales.",
)

PAYLOADS: dict[TaskKind, dict[str, Any]] = {
    "write_prompt": {"style": "plain", "use_case": None, "application": None},
    "review_personal_data": {"findings": [{"kind": "email", "start": 5, "end": 7}, {"kind": "phone", "start": 6, "end": 12}]},
    "score_demonstration": {"text": f"A demonstration. {HOSTILE}"},
    "self_assess": {"topics": ["age", "religion", HOSTILE]},
}
PHASES: dict[TaskKind, Phase] = {
    "flag_sensitive": "screening",
    "score_demonstration": "screening",
    "self_assess": "screening",
    "rate": "evaluation",
    "toxicity": "evaluation",
}


def add_tasks(
    database: Database,
    kind: TaskKind,
    *,
    count: int = 1,
    num_outputs: int = 3,
    phase: Phase | None = None,
    payload: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = OUTPUTS,
    prompt: str = PROMPT,
    overlap: int = 1,
    lease_seconds: float = 1800.0,
) -> int:
    """A batch of tasks of one kind; its id."""
    with database.write() as connection:
        batch_id = items.make_batch(
            connection,
            name=f"batch of {kind} <b>",
            kind=kind,
            phase=phase or PHASES.get(kind, "training"),
            overlap=overlap,
            lease_seconds=lease_seconds,
        )
        new: list[items.NewTask] = []
        for number in range(count):
            key = f"{kind}-{batch_id}-{number}"
            ids: list[str] = []
            if kind not in ("write_prompt", "self_assess"):
                items.add_prompts(connection, [Prompt(id=key, turns=turns_of(prompt))])
            if kind in ("rank", "rate", "toxicity"):
                ids = [f"{key}/{place}" for place in range(num_outputs)]
                texts = [outputs[place % len(outputs)] for place in range(num_outputs)]
                items.add_responses(
                    connection,
                    [Response(id=i, prompt_id=key, text=t, model="SECRET-MODEL") for i, t in zip(ids, texts, strict=True)],
                )
            new.append(
                items.NewTask(
                    prompt_id=None if kind in ("write_prompt", "self_assess") else key,
                    response_ids=ids,
                    payload=PAYLOADS.get(kind, {}) if payload is None else payload,
                )
            )
        items.add_tasks(connection, batch_id, new)
    return batch_id


def claim(browser: Any, kind: TaskKind) -> int:
    """Start a task as the button does; its assignment's id."""
    gone = browser.post("/tasks/claim", {"kind": kind})
    assert gone.status_code == 303, gone.text
    found = re.fullmatch(r"/tasks/(\d+)(?:\?.*)?", gone.headers["location"])
    assert found, gone.headers["location"]
    return int(found[1])


def hidden(page: str) -> dict[str, str]:
    """What a browser sends by itself: the hidden fields of the task's form."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', task_form(page)))


def task_form(page: str) -> str:
    """The task's form of a page."""
    found = re.search(r'<form [^>]*id="task".*?</form>', page, re.DOTALL)
    assert found, "no task on the page"
    return found[0]
