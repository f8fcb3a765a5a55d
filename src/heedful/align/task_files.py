"""Tasks for people: outputs to rank side by side, without a sign of which model wrote which (SPEC 2.3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from heedful.project.data_folder import Records, record_to_json
from heedful.project.files import append_jsonl, locked, write_jsonl
from heedful.project.project import Project
from heedful.records import Prompt, Response


def blinded(responses: Sequence[Response], run: str, seed: int) -> list[Response]:
    """The same responses with ids that name the run and not the model, each prompt's in random order (labelers judge blindly).

    Another run's responses have other ids: what people say of one text is never taken for a judgement of another.
    """
    order = np.random.default_rng([seed, 6]).permutation(len(responses))
    seen: Counter[str] = Counter()
    renamed: list[Response] = []
    for i in order:
        seen[responses[i].prompt_id] += 1
        renamed.append(replace(responses[i], id=f"{run}-{responses[i].prompt_id}-{seen[responses[i].prompt_id]}"))
    return renamed


def write_tasks(
    project: Project, task: Literal["ranking", "evaluation"], prompts: Sequence[Prompt], responses: list[Response]
) -> None:
    """Ranking tasks for people: fill in ``ranks`` and ``labeler``, then ``heedful import heedful FILE``.

    The responses become records of the project, so that what comes back refers to them. A task has no id: the importer makes
    one that depends on the labeler, so several may rank the same task.
    """
    of_prompt: dict[str, list[Response]] = {}
    for response in responses:
        of_prompt.setdefault(response.prompt_id, []).append(response)
    with locked(project.data):
        there = Records.load(project.data).responses
        append_jsonl(project.data / "responses.jsonl", [record_to_json(r) for r in responses if r.id not in there])
    write_jsonl(
        project.tasks / f"{task}.jsonl",
        [
            {
                "kind": "ranking",
                "prompt_id": prompt.id,
                "prompt": prompt.text,
                "response_ids": [r.id for r in of_prompt[prompt.id]],
                "responses": [r.text for r in of_prompt[prompt.id]],
                "ranks": None,
                "labeler": None,
                "phase": "evaluation" if task == "evaluation" else "training",
            }
            for prompt in prompts
        ],
    )
