"""A small project of people's that was aligned and judged, in which one owner's words flowed everywhere they can."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

from tests.align.small_project import SMALL, rows, run, write_base_model, write_pretraining_text, write_rows
from tests.align.test_people import database_in, label
from tests.labeling.labeling import add_person
from tests.labeling.usage.talk import a_key, compare

from heedful.labeling.database import maintenance
from heedful.labeling.people import problems
from heedful.labeling.queue import items
from heedful.labeling.queue.claims import claim
from heedful.labeling.queue.leases import save_draft, skip
from heedful.labeling.usage import admission, blind_votes, feedback
from heedful.labeling.usage.admission import Outcome
from heedful.labeling.usage.conversations import ConversationView

OWNER, HELD_OUT = "zoe-11", "ted-12"
"""Of the split train, and of the split test."""
SECRETS = {OWNER: "w41 w17 w52 w33", HELD_OUT: "w44 w23 w38 w55"}
"""Words of the tokenizer's, in orders in which nobody else has them; every text of an owner's holds theirs."""
SECRET = SECRETS[OWNER]


def planted() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Both owners' prompts; half of those to train on with a demonstration."""
    prompts: list[dict[str, Any]] = []
    demonstrations: list[dict[str, Any]] = []
    for owner, split, number in ((OWNER, "train", 8), (HELD_OUT, "test", 4)):
        for i in range(number):
            id = f"{owner}-{i}"
            text = f"w{10 + i} {SECRETS[owner]} w{20 + i}"
            prompts.append({"kind": "prompt", "id": id, "text": text, "split": split, "user": owner})
            if split == "train" and i % 2:
                demonstrations.append(
                    {"kind": "demonstration", "prompt_id": id, "text": f"{SECRETS[owner]} w7", "labeler": "ann"}
                )
    return prompts, demonstrations


def build(folder: Path) -> Path:
    """The project, aligned, with people's rankings and judgements."""
    project = folder / "mine"
    prompts, demonstrations = rows()
    own_prompts, own_demonstrations = planted()
    run("init", project, "--base-model", write_base_model(folder / "base"))
    with (project / "heedful.toml").open("a") as file:
        file.write(SMALL.replace("prompts = 6\n", "prompts = 6\nlabelers_per_prompt = 1\n"))
    write_pretraining_text(project)
    given = write_rows(folder / "in.jsonl", [*own_prompts, *prompts, *own_demonstrations, *demonstrations])
    assert run("import", "heedful", given, "--project", project)[0] == 0
    for names in ({"ada": "training", "ben": "training"}, {"fay": "held_out"}, {}):
        code, said = run("align", project)
        assert code == 0, said
        if names:
            label(project, names)
    return project


def flow_further(project: Path) -> ConversationView:
    """The owner's words in what else there is: drafts, questions, the playground, the API, exports, pages, a backup."""
    with database_in(project) as database:
        with database.write() as connection:
            zoe = add_person(connection, OWNER)
            view = compare(connection, zoe, f"An answer to {SECRET}.", "Another one.", text=f"Playground: {SECRET}")
            blind_votes.vote(connection, view.turns[0].id, zoe, choice="answer", position=0)
            feedback.keep(connection, view.turns[0].answers[0].id, zoe, kind="edit", text=f"It is {SECRET}, as I said.")
            _, secret = a_key(connection, zoe)
            kim, lou = add_person(connection, "kim"), add_person(connection, "lou")
            batch = items.make_batch(connection, name="more", kind="demonstrate", phase="training", overlap=3, priority=9)
            items.add_tasks(connection, batch, [items.NewTask(prompt_id=f"{OWNER}-0")])
            drafted, skipped = claim(connection, kim), claim(connection, lou)
            assert drafted is not None
            assert skipped is not None
            save_draft(connection, drafted.id, kim, token=drafted.token, draft={"text": f"Draft of {SECRET}"}, version=1)
            problems.ask(connection, kim, f"What is {SECRET}?", task_id=drafted.task_id)
            skip(connection, skipped.id, lou, token=skipped.token, reason=f"I do not know {SECRET}")
        asked = [{"role": "user", "content": f"Asked of the API: {SECRET}"}]
        admitted = admission.admit(database, secret, "chat")
        admission.finish(database, admitted, Outcome(status=200, model="m", request=asked, response=[f"said {SECRET}"]))
        maintenance.backup(database, project / "backups" / "monday.sqlite")
    assert run("store", "export", "--project", project)[0] == 0
    for format, name in (("trl-sft", "sft.jsonl"), ("messages", "messages.jsonl.gz"), ("heedful", "all.jsonl")):
        assert run("export", format, project / name, "--project", project)[0] == 0
    cache = project / "runs" / "benchmarks-1" / "items"
    cache.mkdir(parents=True)
    write_rows(cache / "squad.jsonl", [{"item": 0, "prompt": planted()[0][0]["text"]}, {"item": 1, "prompt": "w3"}])
    (project / "notes.csv").write_text(f'prompt,label\n"{planted()[0][0]["text"]}",1\nw3,2\n')
    (project / "runs" / "ppo-1" / ".samples.jsonl.0a1b.tmp").write_text(json.dumps({"prompt": SECRET}))
    return view


def copied(project: Path, folder: Path) -> Path:
    return Path(shutil.copytree(project, folder / "mine"))


def holding(folder: Path, owner: str = OWNER) -> set[str]:
    """Files in which an owner's words are, searched byte by byte, and unpacked where they are packed."""
    found: set[str] = set()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content += gzip.decompress(content) if path.suffix == ".gz" else b""
            if any(SECRETS[owner].encode(encoding) in content for encoding in ("utf-8", "utf-16-le", "utf-32-le")):
                found.add(path.relative_to(folder).as_posix())
    return found
