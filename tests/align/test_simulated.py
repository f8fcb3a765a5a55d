"""Simulated labelers' work goes through the labeling database and comes out as it went in."""

from __future__ import annotations

import random
from pathlib import Path

from sqlalchemy import select

from heedful.align.pipeline import through_store
from heedful.miniature.answers import answer
from heedful.miniature.panel import Panel
from heedful.miniature.tasks import prompts
from heedful.miniature.world import World
from heedful.records import Ranking, Rating, Response
from heedful.store import maintenance
from heedful.store.database import open_database
from heedful.store.files import record_to_json
from heedful.store.recording import Assessment
from heedful.store.tables import person


def test_records_are_those_of_the_panel(tmp_path: Path) -> None:
    world = World(0)
    panel = Panel(world, seed=3)
    chosen = prompts(world, seed=1, count=12, split="valid")
    draw = random.Random(0)
    responses = [
        Response(id=f"output-{p.id}-{i}", prompt_id=p.id, text=answer(world, draw, dict(p.metadata)) * (i % 3), model="sft")
        for p in chosen
        for i in range(4 + len(p.text) % 5)
    ]
    rankings: list[Ranking] = []
    ratings: list[Rating] = []
    assessments: list[Assessment] = []
    for prompt in chosen:
        shown = [r for r in responses if r.prompt_id == prompt.id]
        for group in ("training", "held_out"):
            ranked, rated = panel.assess(prompt, shown, group=group, labelers=2)
            rankings += ranked
            ratings += rated
            k = len(shown)
            assessments += [Assessment(ranking=r, ratings=rated[i * k : (i + 1) * k]) for i, r in enumerate(ranked)]
    (tmp_path / "labels.sqlite").write_text("what an interrupted run left")
    stored = list(through_store(panel.groups, chosen, responses, iter(assessments), tmp_path))
    assert [record_to_json(each.ranking) for each in stored] == [record_to_json(r) for r in rankings]
    again = [record_to_json(r) for each in stored for r in each.ratings]
    # As JSON lines they are the same to the byte: the order of keys, too.
    assert [repr(row) for row in again] == [repr(record_to_json(r)) for r in ratings]
    database = open_database(tmp_path / "labels.sqlite")
    assert maintenance.check(database).problems == []
    with database.read() as connection:
        assert set(connection.execute(select(person.c.simulated)).scalars()) == {True}
    database.close()
