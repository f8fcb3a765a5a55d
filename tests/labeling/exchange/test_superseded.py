from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from tests.labeling.labeling import add_person, add_ranking_tasks, rank_answer

from heedful.cli.labeling_verbs import StoreExport
from heedful.labeling.database.connection import open_database
from heedful.labeling.queue import leases, reopening
from heedful.project.data_folder import Records
from heedful.project.project import init_project


def test_a_project_gets_the_corrected_answer_in_place_of_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = init_project(tmp_path / "mine", base_model="model")
    database = open_database(project.folder / "labels.sqlite")
    with database.write() as connection:
        ann = add_person(connection, "ann")
        add_ranking_tasks(connection, 2)
        views: list[leases.AssignmentView] = []
        while (view := leases.claim(connection, ann)) is not None:
            views.append(view)
            answer = rank_answer([output.id for output in view.outputs])
            leases.submit(connection, view.id, ann, token=view.token, answer=answer, seconds_spent=None)
    StoreExport(project=project.folder).run(Console())
    first = Records.load(project.data)
    assert (len(first.rankings), len(first.ratings)) == (2, 8)
    with database.write() as connection:
        reopening.correct(connection, views[0].id, ann)
    capsys.readouterr()
    StoreExport(project=project.folder).run(Console())
    assert "removed 5 records" in capsys.readouterr().out
    left = Records.load(project.data)
    assert [one.prompt_id for one in left.rankings.values()] == [views[1].prompt.id if views[1].prompt else None]
    with database.write() as connection:
        again = leases.view_assignment(connection, views[0].id, ann)
        answer = rank_answer([output.id for output in again.outputs], overall=2)
        leases.submit(connection, again.id, ann, token=again.token, answer=answer, seconds_spent=None)
    StoreExport(project=project.folder).run(Console())
    assert "removed" not in capsys.readouterr().out
    now = Records.load(project.data)
    assert (len(now.rankings), len(now.ratings)) == (2, 8)
    assert len(now.rankings.keys() - first.rankings.keys()) == 1
    database.close()
