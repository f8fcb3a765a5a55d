"""After a deletion, an opt-out or forgetting, every byte of the project's folder is searched for the text."""

from __future__ import annotations

import base64
import csv
import gzip
import html
import io
import json
import os
import sqlite3
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy import select
from tests.labeling.labeling import add_person
from tests.labeling.usage.talk import a_key, answer_all, compare

from heedful.align.round_intake import take_in
from heedful.cli.labeling_verbs import StoreExport
from heedful.cli.prompt_verbs import PromptsImport
from heedful.labeling.database import maintenance
from heedful.labeling.database.connection import Database, open_database
from heedful.labeling.database.tables import event, person, prompt
from heedful.labeling.database.usage_tables import conversation_turn, withdrawal
from heedful.labeling.exchange.labels import exported_records
from heedful.labeling.usage import admission, blind_votes, consent, conversations, feedback, own_data
from heedful.labeling.usage.admission import Outcome
from heedful.labeling.usage.conversations import ConversationView
from heedful.lineage.known_records import known_records, records_of_usage
from heedful.lineage.subjects import subject_of
from heedful.lineage.use_record import UseRecord, write_use
from heedful.project.data_folder import Records
from heedful.project.exporting import export_file
from heedful.project.importing import import_file
from heedful.project.lock import alone_in
from heedful.project.outputs import OUTPUTS, check_outputs, described_outputs
from heedful.project.project import Project, init_project
from heedful.project.runs import stage_state
from heedful.prompts import intake, withdrawing
from heedful.prompts.forgetting import forget_owner
from heedful.prompts.withdrawing import WithdrawalReport, apply_withdrawals, take_out

QUIET = Console(quiet=True)
NFD = unicodedata.normalize("NFD", "Où est l'écureuil rêveur?")
MINE = [
    'The "quokka" of <Grüße & Söhne> sleeps\nunder the blue staircase\u2028every day',
    f"{NFD} quokka 🦘 and the others",
    "Is it a quokka\tor is it not, dear neighbour?",
    "Tell me of the second quokka that lives upstairs, please.",
]
"""The word quokka is in all of ada's texts and in no one else's."""
SHARED = "How tall is the old fir behind the mill?"
THEIRS = "Which kettle boils first of all of them, and why?"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "language_of_turns", lambda turns: "en")
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return init_project(tmp_path / "mine", base_model="none")


@pytest.fixture
def database(project: Project) -> Iterator[Database]:
    database = open_database(project.folder / "labels.sqlite")
    yield database
    database.close()


def talk(database: Database, name: str, texts: list[str], word: str) -> tuple[int, list[ConversationView]]:
    """A person with a conversation for each text: with answers, a vote, an edit and a critique that have ``word``."""
    views: list[ConversationView] = []
    with database.write() as connection:
        me = add_person(connection, name)
        for number, text in enumerate(texts):
            view = compare(connection, me, f"Answer {number}: a {word} is an animal, and it has fur.", "No.", text=text)
            first = view.turns[0].answers[0].id
            feedback.keep(connection, first, me, kind="edit", text=f"Edit {number}: the {word} is small,\nand it jumps.")
            feedback.keep(connection, first, me, kind="critique", text=f"It says {word} {number} times")
            blind_votes.vote(connection, view.turns[0].id, me, choice="answer", position=0)
            views.append(view)
        _, secret = a_key(connection, me)
    admitted = admission.admit(database, secret, "chat")
    asked = [{"role": "user", "content": f"Asked by a program: where does the {word} live?"}]
    said = [f"The {word} lives on an island, in the west of it."]
    admission.finish(database, admitted, Outcome(status=200, model="m", request=asked, response=said))
    return me, views


def spread(project: Project, database: Database) -> None:
    """Take everything into the project, as a round does, and write it wherever runs, reports, exports and backups write."""
    take_in(project, QUIET)
    StoreExport(project=project.folder).run(QUIET)
    records = Records.load(project.data)
    for format, name in (("trl-sft", "sft.jsonl"), ("messages", "messages.jsonl.gz"), ("heedful", "all.jsonl")):
        export_file(format, project.data, project.folder / name)
    texts = [one.text for one in (*records.prompts.values(), *records.responses.values(), *records.demonstrations.values())]
    ids = {f"{kind}s": [*records.by_kind(kind)] for kind in ("prompt", "demonstration", "ranking")}
    use = UseRecord(heedful="0", sources="s", records=ids)
    for folder in (project.runs / "sft-1", project.runs / "reward-1", project.folder / "experiments" / "runs" / "ppo-1"):
        run(folder, texts, records, use)
    write_use(project.runs / "evaluate-1", UseRecord(heedful="0", sources="s", parents={"sft": "sft-1"}))
    (project.runs / "evaluate-1" / "stage.json").write_text('{"stage": "evaluate", "done": true}')
    rows = "".join(f"<li>{html.escape(text)}</li>" for text in texts)
    (project.folder / "report.html").write_text(f"<ul>{rows}</ul><script>{in_script(texts)}</script>")
    transcripts = [{"prompt": one.text, "responses": [{"text": "x"}]} for one in records.prompts.values()]
    (project.folder / "results.json").write_text(json.dumps({"transcripts": transcripts}, indent=1))
    table = io.StringIO()
    csv.writer(table).writerows([[number, text] for number, text in enumerate(texts)])
    (project.folder / "notes.csv").write_text(table.getvalue())
    (project.folder / "align.log").write_text("".join(f"sample {text!r}\n" for text in texts))
    (project.folder / "cache.json.gz").write_bytes(gzip.compress(json.dumps({"texts": texts}).encode()))
    longest = max((text for text in texts if "quokka" in text), key=len)
    (project.folder / "prompts.html").write_text(html.escape(longest))
    (project.data / ".prompts.jsonl.0a1b.tmp").write_text(longest)
    maintenance.backup(database, project.folder / "backups" / "monday.sqlite")
    maintenance.backup(database, project.folder / "labels.sqlite.before-restore")
    maintenance.backup(database, project.folder / "experiments" / "labels.sqlite")
    maintenance.backup(database, project.folder / "copy of tuesday.db")
    (project.folder / "packed.jsonl").write_bytes((project.folder / "messages.jsonl.gz").read_bytes())


def run(folder: Path, texts: list[str], records: Records, use: UseRecord) -> None:
    """A finished run's folder."""
    records.save(folder)
    write_use(folder, use)
    (folder / "rewards.json").write_text(json.dumps(dict.fromkeys(records.responses, 0.5)))
    samples = [{"step": 1, "prompt": text, "response": f"{text} {text}"} for text in texts]
    lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(samples)]
    (folder / "samples.jsonl").write_text("\n".join([*lines, lines[0][:-3]]))  # a kill cut the last line short
    (folder / "events.out.tfevents.1").write_bytes(b"\x00\xffloss\x01")
    (folder / "config.json").write_text('{"template": "plain", "kind": "train"}')
    state = {"stage": folder.name, "fingerprint": folder.name, "done": True}
    (folder / "stage.json").write_text(json.dumps(state))
    (folder / "stage.json").write_text(json.dumps({**state, OUTPUTS: described_outputs(folder)}))


def in_script(texts: list[str]) -> str:
    return json.dumps(texts).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("'", "\\u0027")


def holding(folder: Path, *words: str) -> set[str]:
    """Files that hold a word, in any encoding, packed or not."""
    found: set[str] = set()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            content += gzip.decompress(content) if content.startswith(b"\x1f\x8b") else b""
            for word in words:
                encoded = [word.encode(name) for name in ("utf-8", "utf-16-le", "utf-32-le")]
                encoded += in_base64(word.encode())
                if any(one in content for one in encoded):
                    found.add(path.relative_to(folder).as_posix())
    return found


def is_database(name: str) -> bool:
    return "sqlite" in name or name.endswith(".db")


def in_base64(word: bytes) -> Iterator[bytes]:
    """A word as part of base64: the digits that do not depend on what stands before and after it."""
    for before in range(3):
        yield base64.b64encode(b"x" * before + word)[-(-8 * before // 6) : 8 * (before + len(word)) // 6]


EVERYWHERE = {
    *(f"data/{kind}s.jsonl" for kind in ("prompt", "response", "demonstration")),
    *(f"runs/sft-1/{name}" for name in ("prompts.jsonl", "responses.jsonl", "demonstrations.jsonl", "samples.jsonl")),
    *("labels.sqlite-wal", "backups/monday.sqlite", "labels.sqlite.before-restore", "labels.jsonl", "sft.jsonl", "all.jsonl"),
    *("messages.jsonl.gz", "report.html", "results.json", "notes.csv", "align.log", "cache.json.gz", "prompts.html"),
    *("data/.prompts.jsonl.0a1b.tmp", "experiments/runs/ppo-1/samples.jsonl", "experiments/labels.sqlite"),
    *("copy of tuesday.db", "packed.jsonl"),
}


def filled(project: Project, database: Database) -> tuple[int, list[ConversationView]]:
    talk(database, "bob", [SHARED, THEIRS], "kettle")
    take_in(project, QUIET)  # of two prompts that are the same word for word, the one that is there already stays
    ada, views = talk(database, "ada", [*MINE, SHARED], "quokka")
    spread(project, database)
    assert holding(project.folder, "quokka") >= EVERYWHERE
    return ada, views


def keys_of(views: list[ConversationView]) -> list[str]:
    return [turn.key for view in views for turn in view.turns]


def is_whole(project: Project, theirs: dict[str, Any]) -> None:
    """Bob's records are as before, the stages count as undamaged, and settings have kept their words."""
    records = Records.load(project.data)
    for kind, before in theirs.items():
        assert {id: one for id, one in records.by_kind(kind).items() if id in before} == before, kind  # type: ignore[arg-type]
    for stage in ("sft-1", "reward-1"):
        check_outputs(stage, project.runs / stage, stage_state(project.runs / stage))
    assert json.loads((project.runs / "sft-1" / "config.json").read_text())["template"] == "plain"
    report = html.unescape((project.folder / "report.html").read_text())
    assert THEIRS in report
    assert SHARED in report
    assert SHARED in (project.runs / "sft-1" / "samples.jsonl").read_text()


def bobs(project: Project) -> dict[str, Any]:
    """Bob's records, by kind and id."""
    records = Records.load(project.data)
    prompts = {id: one for id, one in records.prompts.items() if one.user == "bob"}
    found: dict[str, Any] = {"prompt": prompts}
    for kind in ("demonstration", "ranking"):
        found[kind] = {id: one for id, one in records.by_kind(kind).items() if one.labeler == "bob"}
    assert len(prompts) >= 2
    assert len(found["demonstration"]) == 2
    return found


def test_what_is_deleted_is_in_no_byte(project: Project, database: Database) -> None:
    ada, _ = filled(project, database)
    theirs = bobs(project)
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    report = apply_withdrawals(database, project)
    assert holding(project.folder, "quokka") == set()
    is_whole(project, theirs)
    assert {run.name for run in report.runs} == {"sft-1", "reward-1", "ppo-1", "evaluate-1"}
    assert (report.left, report.waits) == ((), False)
    assert not maintenance.check(database).problems


def test_ids_are_gone_too(project: Project, database: Database) -> None:
    ada, views = filled(project, database)
    keys = keys_of(views)
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    apply_withdrawals(database, project)
    assert {name for name in holding(project.folder, *keys) if not is_database(name)} == set()


def test_forgetting_leaves_no_byte_either(project: Project, database: Database) -> None:
    filled(project, database)
    theirs = bobs(project)
    report = forget_owner(project, "ada", database=database)
    assert holding(project.folder, "quokka") == set()
    is_whole(project, theirs)
    assert report.files == ()


def test_without_the_labeling_database_forgetting_finds_feedback_on_anothers_prompt(
    project: Project, database: Database
) -> None:
    """An import merges prompts that are the same word for word: ada's edit of her own turn is about bob's prompt."""
    filled(project, database)
    edit = next(one for one in Records.load(project.data).demonstrations.values() if "Edit 4: the quokka" in one.text)
    assert Records.load(project.data).prompts[edit.prompt_id].user == "bob"
    forget_owner(project, "ada")
    assert not any("quokka" in one.text for one in Records.load(project.data).demonstrations.values())


def test_one_turn_is_taken_back_and_the_others_stay(project: Project, database: Database) -> None:
    ada, views = filled(project, database)
    theirs = bobs(project)
    others = [view for view in views if "second" not in view.turns[0].text]
    (second,) = [view for view in views if "second" in view.turns[0].text]
    with database.write() as connection:
        consent.withdraw_turn(connection, second.turns[0].id, ada)
    apply_withdrawals(database, project)
    files = {name for name in holding(project.folder, "the second quokka", "Edit 3", "Answer 3") if not is_database(name)}
    assert files == set()
    is_whole(project, theirs)
    texts = "".join(one.text for one in Records.load(project.data).prompts.values())
    assert "blue staircase" in texts
    assert "blue staircase" in html.unescape((project.folder / "report.html").read_text())
    # It stays in the owner's own history, and is never exported again, from a restored backup neither.
    for file in ("labels.sqlite", "backups/monday.sqlite", "labels.sqlite.before-restore", "copy of tuesday.db"):
        copy = open_database(project.folder / file)
        with copy.read() as connection:
            rows = connection.execute(select(conversation_turn.c.key, conversation_turn.c.training)).all()
            may_train = {key: training for key, training in rows if key in keys_of(views)}
            assert may_train == {**dict.fromkeys(keys_of(others), True), **dict.fromkeys(keys_of([second]), False)}
            assert "second quokka" not in json.dumps(list(exported_records(connection)))
            assert connection.execute(select(withdrawal.c.key)).scalars().all() == keys_of([second])
        copy.close()


def test_a_later_turn_is_taken_back_and_the_earlier_one_stays(project: Project, database: Database) -> None:
    """The later turn's prompt contains the earlier turn."""
    earlier, later = "Name the animals of the island in the west.", "And now only the quokka, with its habits."
    with database.write() as connection:
        me = add_person(connection, "ada")
        view = compare(connection, me, "Long are the names of animals, and many.", "No.", text=earlier)
        blind_votes.vote(connection, view.turns[0].id, me, choice="answer", position=0)
        conversations.add_turn(connection, view.id, me, later, training=True)
        view = answer_all(connection, conversations.own(connection, view.id, me), f"A quokka digs{', and sleeps' * 3}.")
        feedback.keep(connection, view.turns[1].answers[0].id, me, kind="edit", text="A quokka hops.")
    talk(database, "bob", [SHARED, THEIRS], "kettle")
    spread(project, database)
    assert "runs/sft-1/samples.jsonl" in holding(project.folder, "quokka")
    with database.write() as connection:
        consent.withdraw_turn(connection, view.turns[1].id, me)
    apply_withdrawals(database, project)
    assert {name for name in holding(project.folder, "quokka") if not is_database(name)} == set()
    assert "data/prompts.jsonl" in holding(project.folder, earlier)
    assert "runs/sft-1/samples.jsonl" in holding(project.folder, earlier)
    assert earlier in (project.folder / "report.html").read_text()


def test_while_a_model_is_trained_only_the_records_are_cleaned(project: Project, database: Database) -> None:
    ada, views = filled(project, database)
    for file in [*project.folder.rglob("runs/*/prompts.jsonl"), *project.folder.rglob("runs/*/demonstrations.jsonl")]:
        file.unlink()  # once data/ is clean, no file of records has the texts: what was noted must be enough
    for file in project.folder.rglob("runs/*/responses.jsonl"):
        file.unlink()
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    with alone_in(project.runs):
        report = apply_withdrawals(database, project)
        assert report.waits
        assert report.erased["demonstrations"] == 5
        still = {name for name in holding(project.folder, "quokka") if name.startswith(("data/", "labels.jsonl"))}
        assert still == {"data/.prompts.jsonl.0a1b.tmp"}
        assert "runs/sft-1/samples.jsonl" in holding(project.folder, "quokka")
        # Bob says the same as ada did: in the meantime his words get the id that hers had.
        with database.write() as connection:
            bob = connection.execute(select(person.c.id).where(person.c.pseudonym == "bob")).scalar_one()
            compare(connection, bob, text=MINE[3])
        PromptsImport(format="api", project=project.folder).run(QUIET)
        assert MINE[3] + "\n" in {one.text for one in Records.load(project.data).prompts.values()}
    apply_withdrawals(database, project)
    assert MINE[3] + "\n" in {one.text for one in Records.load(project.data).prompts.values()}
    assert not holding(project.folder, "blue staircase", "a quokka is an animal", "Edit 3: the quokka", "the quokka live")
    assert not {name for name in holding(project.folder, *keys_of(views)) if not is_database(name)}


class Killed(BaseException):
    """As SIGKILL: nothing after it runs."""


STEPS = 35


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_killed_at_any_step_it_is_finished_by_the_next_call(
    project: Project, database: Database, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps are renames, transactions and rewrites of a database."""
    ada, _ = filled_quickly(project, database)
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    with monkeypatch.context() as patch:
        left = kill_at(patch, step)
        try:
            apply_withdrawals(database, project)
            assert step == STEPS, f"there are only {step - left[0]} steps"
        except Killed:
            assert left[0] == 0
    Records.load(project.data)
    report = apply_withdrawals(database, project)
    assert holding(project.folder, "quokka") == set()
    with database.read() as connection:
        assert not consent.pending(connection)
        reports = [one.report for one in consent.withdrawn_by(connection, ada)]
    assert {name for one in reports for name in one["runs"]} == {"runs/sft-1", "runs/evaluate-1"}
    assert sum(one["erased"].get("demonstrations", 0) for one in reports) == 2
    assert report.left == ()


def filled_quickly(project: Project, database: Database) -> tuple[int, list[ConversationView]]:
    ada, views = talk(database, "ada", MINE[:2], "quokka")
    take_in(project, QUIET)
    records = Records.load(project.data)
    texts = [one.text for one in (*records.prompts.values(), *records.demonstrations.values())]
    ids = {f"{kind}s": [*records.by_kind(kind)] for kind in ("prompt", "demonstration", "ranking")}
    run(project.runs / "sft-1", texts, records, UseRecord(heedful="0", sources="s", records=ids))
    write_use(project.runs / "evaluate-1", UseRecord(heedful="0", sources="s", parents={"sft": "sft-1"}))
    (project.runs / "evaluate-1" / "stage.json").write_text('{"stage": "evaluate", "done": true}')
    (project.folder / "report.html").write_text(html.escape("\n".join(texts)))
    maintenance.backup(database, project.folder / "backups" / "monday.sqlite")
    return ada, views


def kill_at(patch: pytest.MonkeyPatch, step: int) -> list[int]:
    """Die before this step. Returns how many steps are left until then."""
    left = [step]
    replace, write, rewrite = os.replace, Database.write, Database.rewrite

    def count() -> None:
        if left[0] == 0:
            raise Killed
        left[0] -= 1

    def replaced(*arguments: Any) -> None:
        count()
        replace(*arguments)

    def written(self: Database) -> Any:
        count()
        return write(self)

    def rewritten(self: Database) -> bool:
        count()
        return rewrite(self)

    patch.setattr("os.replace", replaced)
    patch.setattr(Database, "write", written)
    patch.setattr(Database, "rewrite", rewritten)
    return left


def test_a_second_call_has_nothing_to_do(project: Project, database: Database) -> None:
    ada, _ = filled_quickly(project, database)
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    apply_withdrawals(database, project)
    assert apply_withdrawals(database, project) == WithdrawalReport(number=0, erased={}, runs=(), left=(), waits=False)
    assert take_out(database, project).number == 0


def test_what_was_kept_from_training_leaves_the_backups_when_it_is_deleted(project: Project, database: Database) -> None:
    with database.write() as connection:
        me = add_person(connection, "ada")
        view = compare(connection, me, text="A private quokka, which nobody may learn from.", training=False)
    maintenance.backup(database, project.folder / "backups" / "monday.sqlite")
    with database.write() as connection:
        consent.delete_conversation(connection, view.id, me)
    apply_withdrawals(database, project)
    assert holding(project.folder, "quokka") == set()


def test_what_a_training_put_into_the_labeling_queue_meanwhile_goes_too(project: Project, database: Database) -> None:
    from heedful.labeling.queue import items

    ada, views = filled_quickly(project, database)
    records = Records.load(project.data)
    with database.write() as connection:
        consent.withdraw_conversation(connection, views[0].id, ada)
    with alone_in(project.runs):
        apply_withdrawals(database, project)
        with database.write() as connection:
            items.add_prompts(connection, records.prompts.values())
    apply_withdrawals(database, project)
    with database.read() as connection:
        assert not any("blue staircase" in text for text in connection.execute(select(prompt.c.text)).scalars())


@pytest.mark.parametrize("text", ["train", "plain", "1", "true"])
def test_a_short_text_is_no_word_of_the_settings(project: Project, database: Database, text: str) -> None:
    talk(database, "bob", [SHARED, THEIRS], "kettle")
    take_in(project, QUIET)
    ada, _ = talk(database, "ada", [text], "quokka")
    spread(project, database)
    theirs = bobs(project)
    assert json.dumps(f"{text}\n") in (project.runs / "sft-1" / "samples.jsonl").read_text()
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    apply_withdrawals(database, project)
    assert json.dumps(f"{text}\n") not in (project.runs / "sft-1" / "samples.jsonl").read_text()
    is_whole(project, theirs)
    assert json.loads((project.runs / "sft-1" / "config.json").read_text()) == {"template": "plain", "kind": "train"}
    assert len(json.loads((project.runs / "sft-1" / "rewards.json").read_text())) == len(Records.load(project.data).responses)


IDS = [("train", "a quokka in the cellar", "ada"), ("7", "a quokka in the attic", "ada"), ("b", "a kettle on the stove", "bob")]


def test_a_short_id_is_no_word_of_other_rows(project: Project) -> None:
    rows = [{"kind": "prompt", "id": id, "text": f"Text of {id}: {words}", "user": user} for id, words, user in IDS]
    (project.folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_file("heedful", project.folder / "in.jsonl", project.data)
    (project.folder / "in.jsonl").unlink()
    records = Records.load(project.data)
    run(project.runs / "sft-1", ["x"], records, UseRecord(heedful="0", sources="s", records={"prompts": ["train", "7", "b"]}))
    metrics = '{"step": 7, "split": "train", "by": {"7": 0.5, "8": 0.25}}'
    (project.runs / "sft-1" / "metrics.jsonl").write_text(f"{metrics}\n")
    (project.runs / "sft-1" / "curve.json").write_text(metrics)
    (project.runs / "sft-1" / "rewards.json").write_text('{"7": 0.5, "b": 0.25}')
    forget_owner(project, "ada")
    assert [one.id for one in Records.load(project.data).prompts.values()] == ["b"]
    assert (project.runs / "sft-1" / "metrics.jsonl").read_text() == f"{metrics}\n"
    assert json.loads((project.runs / "sft-1" / "curve.json").read_text()) == json.loads(metrics)
    assert json.loads((project.runs / "sft-1" / "rewards.json").read_text()) == {"b": 0.25}
    assert json.loads((project.runs / "sft-1" / "used.json").read_text())["records"] == {"prompts": ["b"]}


def test_deleted_after_it_was_taken_back(project: Project, database: Database) -> None:
    """The turn stayed in its owner's history, and so in the backups."""
    ada, views = filled_quickly(project, database)
    with database.write() as connection:
        for view in views:
            consent.withdraw_conversation(connection, view.id, ada)
    apply_withdrawals(database, project)
    assert "backups/monday.sqlite" in holding(project.folder, "blue staircase")
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    apply_withdrawals(database, project)
    assert holding(project.folder, "quokka") == set()
    with database.read() as connection:
        reports = [one.report for one in consent.withdrawn_by(connection, ada)]
        told = connection.execute(select(event.c.after).where(event.c.action == "erase_withdrawn")).scalars().all()
    assert [one["runs"] for one in told] == [["runs/evaluate-1", "runs/sft-1"]] * 2
    (note,) = subject_of(project, views[0].turns[0].key, database=database).notes[1:]
    assert note == "its owner took it back; these runs may have used it: runs/evaluate-1, runs/sft-1"
    assert sum(set(one.get("runs", [])) == {"runs/sft-1", "runs/evaluate-1"} for one in reports) == 3


def test_deleted_while_it_is_being_erased(project: Project, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ada, views = filled_quickly(project, database)
    with database.write() as connection:
        consent.withdraw_conversation(connection, views[0].id, ada)
    erase = withdrawing.erase_elsewhere

    def and_meanwhile(*arguments: Any, **named: Any) -> Any:
        done = erase(*arguments, **named)
        with database.write() as connection:
            consent.delete_conversation(connection, views[0].id, ada)
        return done

    with monkeypatch.context() as patch:
        patch.setattr(withdrawing, "erase_elsewhere", and_meanwhile)
        apply_withdrawals(database, project)
    with database.read() as connection:
        assert list(consent.pending(connection)) == [views[0].turns[0].key]
    apply_withdrawals(database, project)
    assert holding(project.folder, "blue staircase") == set()


def test_forgetting_an_owner_whose_withdrawal_was_not_finished(project: Project, database: Database) -> None:
    """What a withdrawal has to look for is in the database until it is erased: it goes with the owner."""
    ada, _ = filled_quickly(project, database)
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    take_out(database, project)
    assert holding(project.folder, "blue staircase") >= {"runs/sft-1/samples.jsonl", "report.html", "labels.sqlite-wal"}
    forget_owner(project, "ada", database=database)
    assert holding(project.folder, "quokka") == set()
    assert apply_withdrawals(database, project).number == 0


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_text_is_found_composed_and_decomposed(project: Project, form: Any) -> None:
    """A tokenizer or an editor may have written it in the other form."""
    text = "Où est l'écureuil rêveur, et le quokka?"
    row = {"kind": "prompt", "id": "p-1", "text": unicodedata.normalize(form, text), "user": "ada"}
    (project.folder / "in.jsonl").write_text(json.dumps(row) + "\n")
    import_file("heedful", project.folder / "in.jsonl", project.data)
    (project.folder / "in.jsonl").unlink()
    for name in ("NFC", "NFD"):
        other = unicodedata.normalize(name, text)
        (project.folder / f"{name}.txt").write_text(f"Look: {other}!")
        (project.folder / f"{name}.jsonl").write_text(json.dumps({"response": f"  {other.replace(' ', '  ')} Yes"}))
        (project.folder / f"{name}.json").write_text(json.dumps({"a": [other], other: 1}))
    forget_owner(project, "ada")
    assert holding(project.folder, "quokka") == set()


def test_files_that_cannot_be_searched_are_named(project: Project, database: Database) -> None:
    ada, _ = filled_quickly(project, database)
    (project.folder / "old.csv").write_bytes(f"1,{MINE[0][:60]}...".encode("cp1252"))
    (project.folder / "table.parquet").write_bytes(b"PAR1")
    checkpoint = project.runs / "sft-1" / "checkpoints" / "step-2"
    checkpoint.mkdir(parents=True)
    for name in ("state.pt", "SHA256SUMS"):
        (checkpoint / name).write_bytes(b"\x80\x02")
    (project.folder / "backups" / "notes.txt").write_text("x" * 200)
    with sqlite3.connect(project.folder / "foreign.db") as other:
        other.execute("CREATE TABLE notes (text TEXT)")
    other.close()
    foreign = (project.folder / "foreign.db").read_bytes()
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    report = apply_withdrawals(database, project)
    names = {path.relative_to(project.folder).as_posix() for path in report.left}
    assert names == {"old.csv", "table.parquet", "runs/sft-1/checkpoints/step-2", "backups/notes.txt", "foreign.db"}
    assert (project.folder / "foreign.db").read_bytes() == foreign


def test_who_said_the_same_later_gets_it_back(project: Project, database: Database) -> None:
    """The stored prompt was ada's, and bob's feedback was about it: it goes with her, and comes again with his own turn."""
    ada, _ = talk(database, "ada", [SHARED], "quokka")
    take_in(project, QUIET)
    talk(database, "bob", [SHARED], "kettle")
    take_in(project, QUIET)
    owners = {one.text: one.user for one in Records.load(project.data).prompts.values()}
    assert owners[f"{SHARED}\n"] == "ada"
    with database.write() as connection:
        own_data.delete_everything(connection, ada)
    apply_withdrawals(database, project)
    assert holding(project.folder, "quokka") == set()
    take_in(project, QUIET)
    records = Records.load(project.data)
    assert {one.text: one.user for one in records.prompts.values()}[f"{SHARED}\n"] == "bob"
    assert [one.text.split(":")[0] for one in records.demonstrations.values()] == ["Edit 0"]
    assert {one.labeler for one in records.rankings.values()} == {"bob"}


def test_the_quick_search_finds_what_the_whole_one_finds(project: Project, database: Database) -> None:
    """The quick one keeps in memory only what it is asked for."""
    _, views = filled(project, database)
    keys = keys_of(views)
    whole, quick_one = known_records(project), records_of_usage(project.data, keys)
    assert quick_one.by_usage(keys) == whole.by_usage(keys)
    assert all(whole.by_usage(keys).values())
    kept = [row for rows in quick_one.by_kind.values() for row in rows.values()]
    assert not any("kettle" in json.dumps(row) for row in kept)
    for key in keys:
        assert records_of_usage(project.data, [key]).by_usage([key]) == whole.by_usage([key])


def test_what_a_command_says_of_it(project: Project) -> None:
    nothing = WithdrawalReport(number=0, erased={}, runs=(), left=(), waits=False)
    assert nothing.lines() == []
    said = replace(nothing, number=2, erased={"prompts": 1_000, "ratings": 0}, runs=(project.runs / "sft-1",))
    assert said.lines() == [
        "erased, because users withdrew consent: 1,000 prompts",
        "runs that may have learned from withdrawn text: sft-1",
    ]
    assert "is erased when the training that runs has ended" in replace(nothing, waits=True).lines()[0]
    assert replace(nothing, left=(Path("x.zip"),)).lines() == [
        "this file may hold withdrawn text and cannot be searched: x.zip"
    ]
