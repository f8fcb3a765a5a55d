"""One flow with people: align asks, three labelers rank in Chromium, align goes on. The installed wheel; nothing in between."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.align.small_project import SMALL, rows, write_base_model, write_pretraining_text, write_rows
from tests.e2e.conftest import Server, environment
from tests.e2e.test_labeling import invite, person, start, text_of

EMPTY = "(this output is empty)"
FEW = SMALL.replace("prompts = 10\nvalidation_prompts = 3", "prompts = 4\nvalidation_prompts = 2")


@pytest.fixture(scope="module")
def project(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with prompts and demonstrations, as ``heedful init`` and ``import`` leave it."""
    folder = tmp_path_factory.mktemp("people") / "mine"
    heedful(installed, "init", folder, "--base-model", write_base_model(folder.parent / "base"))
    with (folder / "heedful.toml").open("a") as file:
        file.write(FEW)
    write_pretraining_text(folder)
    prompts, demonstrations = rows()
    records = write_rows(folder.parent / "records.jsonl", [*prompts, *demonstrations])
    heedful(installed, "import", "heedful", records, "--project", folder)
    return folder


def heedful(installed: Path, *arguments: object) -> str:
    """What a command of the installed wheel says."""
    command = [str(installed / "bin" / "heedful"), *map(str, arguments)]
    done = subprocess.run(
        command, env=environment(installed) | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def rank_one(page: Any, server: Server, shift: int) -> dict[str, int]:
    """Rank one task by keys; the rank given to each output's text."""
    start(page, server, "rank")
    page.locator(".board-card").first.wait_for()
    texts = text_of(page)
    ranks = {letter: 1 + (place + shift) % len(texts) for place, letter in enumerate(sorted(texts))}
    for letter in ranks:
        page.locator(f"input[name='{letter}.overall'][value='{8 - ranks[letter]}']").check(force=True)
        page.locator(f"select[name='{letter}.group']").select_option(str(ranks[letter]))
    page.get_by_role("button", name="Submit, then stop").click()
    page.get_by_text("Thank you. Your answer is kept.").wait_for()
    return {texts[letter].replace(EMPTY, ""): rank for letter, rank in ranks.items()}


def of_run(project: Path, stage: str, file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project / "runs" / stage / file).read_text().splitlines()]


def ranked(ranking: dict[str, Any], texts: dict[str, str]) -> list[tuple[int, str]]:
    """A ranking as what was said of which text."""
    return sorted((rank, texts[id].strip()) for id, rank in zip(ranking["response_ids"], ranking["ranks"], strict=True))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_align_asks_people_rank_and_align_goes_on(installed: Path, project: Path, chromium: Any) -> None:
    said = heedful(installed, "align", project)
    waiting = re.search(r"(\d+) ranking tasks wait: `heedful web (\S+)`", said)
    assert waiting is not None, said
    number = int(waiting[1])
    assert number == 6
    assert not (project / "runs" / "reward-1").exists()

    server = Server(installed, project)
    given: list[dict[str, int]] = []
    try:
        server.start()
        with ExitStack() as stack:
            admin = stack.enter_context(person(chromium, server.admin_link, "Ada"))
            links = invite(admin, server, number=3)
            pages = [stack.enter_context(person(chromium, link, name)) for link, name in zip(links, "BCD", strict=True)]
            for turn in range(number):
                given.append(rank_one(pages[turn % 3], server, turn))
                if turn == 0:
                    halfway = heedful(installed, "align", project)
                    assert f"1 of {number} ranking tasks are done" in halfway
                    assert "1 rankings" in heedful(installed, "status", project)
        said = heedful(installed, "status", project)
        assert f"{number} rankings" in said, said
    finally:
        server.stop()
        server.database.close()

    said = heedful(installed, "align", project)
    assert "evaluation tasks wait: `heedful web" in said
    texts = {row["id"]: row["text"] for row in of_run(project, "collect-1", "responses.jsonl")}
    used = of_run(project, "collect-1", "rankings.jsonl")
    expected = [sorted((rank, text.strip()) for text, rank in one.items()) for one in given]
    assert sorted(ranked(one, texts) for one in used) == sorted(expected)
    assert len({one["labeler"] for one in used}) == 3
    trained = of_run(project, "reward-1", "metrics.jsonl")
    results = json.loads((project / "results.json").read_text())
    train = {row["id"] for row in map(json.loads, (project / "data" / "prompts.jsonl").open()) if row["split"] == "train"}
    assert results["data"]["rankings"] == sum(one["prompt_id"] in train for one in used)
    assert trained
    assert results["labelers"] == "people"
