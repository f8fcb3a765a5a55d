"""The whole product without a shell: a vote and an edit in the playground, the next round by a button, the policy it leaves.

Tiny models of random weights: whether the rule accepts the new policy is not the point here, but that all pages and the server
say the same.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.align.small_miniature import few_data, make
from tests.align.small_project import heedful
from tests.e2e.test_labeling import person
from tests.heedful_up import heedful_up

from heedful.miniature import preparation as miniature
from heedful.project.data_folder import Records
from heedful.project.owners import owner_key

ROUND_MS = 540_000

pytestmark = pytest.mark.skipif(
    not (miniature.WEIGHTS / "small" / "tokenizer.json").is_file(),
    reason="the miniature's weights are not made: python -m heedful.miniature.base small medium",
)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_from_a_vote_to_the_next_policy_without_a_shell(processes: Any, chromium: Any, tmp_path: Path) -> None:
    project = make(tmp_path / "project", tmp_path / "model")
    assert heedful(processes, "align", project, before=few_data).returncode == 0
    owner_key(project / "data")  # written once; with these shares every new owner's prompts train
    owners = json.loads((project / "data" / "owners.json").read_text())
    (project / "data" / "owners.json").write_text(json.dumps({**owners, "shares": [1.0, 0.0, 0.0]}))
    up = heedful_up(str(project), "--precision", "float32", folder=tmp_path, seconds=840)
    with up as addresses, person(chromium, addresses["join"], "Ada") as page:
        page.goto(f"{addresses['application']}/playground")
        page.get_by_label("Two or more models, blind").check()
        for box in page.locator("input[name=model]").all():
            box.set_checked(box.get_attribute("value") in ("base", "ppo_ptx"))
        page.get_by_label("Your message or text").fill("Write a story about a hen and a lantern.")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("button", name="Right is better").and_(page.locator(":enabled")).wait_for(timeout=120_000)
        page.get_by_role("button", name="Right is better").press("Enter")
        page.get_by_text("the right answer is better").wait_for()
        chosen = page.locator(".answer-chosen")
        chosen.locator("summary").click()
        chosen.get_by_label("The answer as it should be").fill("The hen found a lantern.")
        chosen.get_by_role("button", name="Keep the edit").click()
        page.get_by_text("Your edit is kept.").wait_for()

        page.goto(f"{addresses['application']}/admin/rounds")
        page.get_by_role("button", name="Start round 2").click()
        page.get_by_text("Round 2 is running.").wait_for()
        page.get_by_role("button", name="Start round 3").wait_for(timeout=ROUND_MS)
        (decided,) = json.loads((project / "results.json").read_text())["rounds"]
        row = page.get_by_role("row").filter(has_text="policy_2").inner_text()
        assert ("accepted" if decided["accepted"] else "rejected") in row
        assert decided["reasons"][0] in row

        records = Records.load(project / "data")
        (prompt,) = [one for one in records.prompts.values() if "lantern" in one.text and one.source == "customer"]
        rankings = [one for one in records.rankings.values() if one.prompt_id == prompt.id]
        assert sorted(one.ranks for one in rankings) == [(1, 2), (2, 1)]  # the edit's, and the vote's for the right answer
        known = json.loads((project / "runs" / "prompts_2-1" / "known.json").read_text())
        assert {one.id for one in rankings} <= set(known["rankings"])
        assert (project / "runs" / "initial_policy_2-1" / "model").is_dir()  # trained again: the edit is a new demonstration

        def names() -> list[str]:
            return [model["id"] for model in httpx.get(f"{addresses['models']}/models", timeout=60).json()["data"]]

        pause = threading.Event()
        for _ in range(600):
            if ("policy_2" in names()) == decided["accepted"]:
                break
            pause.wait(0.1)
        assert ("policy_2" in names()) == decided["accepted"]
