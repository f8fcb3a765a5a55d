"""A small world to call every route in: people of all roles, prompts, outputs, batches, and what one labeler is working on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.web.fake_models import FakeModels
from tests.web.site import Site, make_site

from heedful.conversation import turns_of
from heedful.labeling.people import accounts
from heedful.labeling.queue import items, leases
from heedful.labeling.queue.kinds import Phase, TaskKind
from heedful.project.project import init_project
from heedful.records import Prompt, Response

XSS = "<script>alert(1)</script><img src=x onerror=alert(2)> \"'><b>bold</b> {{ 7 * 7 }} ${1} javascript:alert(3)"


@dataclass(slots=True)
class World:
    """Who and what there is, by id."""

    site: Site
    admin: int
    researcher: int
    owner: int
    """The labeler whose things they are."""
    stranger: int
    """Another labeler of the same group."""
    held_out: int
    user: int
    """Somebody from outside, who only talks to models."""
    parameters: dict[str, Any] = field(default_factory=dict)
    """What stands for each parameter of a path: the owner's things."""
    token: str = ""
    """The lease's of the owner's assignment, a ranking."""
    response_ids: tuple[str, ...] = ()
    """The outputs of the owner's assignment."""


def make_world(folder: Path) -> World:
    """A filled database and its application."""
    site = make_site(folder, project=init_project(folder / "project", base_model="none").folder)
    site.app.state.model_server = FakeModels().in_process()
    world = World(
        site=site,
        admin=site.person("admin", name="Ada"),
        researcher=site.person("researcher", name="Rex"),
        owner=site.person("labeler", name=f"Olga {XSS}"),
        stranger=site.person("labeler", name="Sam"),
        held_out=site.person("labeler", "held_out", name="Hila"),
        user=site.person("user", name=f"Ulla {XSS}"),
    )
    with site.database.write() as connection:
        items.add_prompts(
            connection, [Prompt(id=f"p{n}", turns=turns_of(f"Prompt {n} {XSS}"), split="train") for n in range(6)]
        )
        items.add_responses(
            connection,
            [
                Response(id=f"p{n}-r{k}", prompt_id=f"p{n}", text=f"Output {k} {XSS}", model="secret-model")
                for n in range(6)
                for k in range(4)
            ],
        )
        batches: dict[str, int] = {}
        kinds: tuple[tuple[TaskKind, Phase], ...] = (
            ("rank", "training"),
            ("demonstrate", "training"),
            ("rate", "evaluation"),
            ("write_prompt", "training"),
        )
        for kind, phase in kinds:
            batches[kind] = items.make_batch(
                connection,
                name=f"{kind} {XSS}",
                kind=kind,
                phase=phase,
                overlap=2,
                created_by=world.admin,
            )
            items.add_tasks(
                connection,
                batches[kind],
                [
                    items.NewTask(
                        prompt_id=None if kind == "write_prompt" else f"p{n}",
                        response_ids=[f"p{n}-r{k}" for k in range(4)] if kind in ("rank", "rate") else [],
                        payload={"style": "plain", "use_case": None, "application": None} if kind == "write_prompt" else {},
                    )
                    for n in range(6)
                ],
                seed=0,
            )
        view = leases.claim(connection, world.owner, kind="rank")
        assert view is not None
        invite = accounts.invite_to_join(connection, role="labeler", group="training", created_by=world.admin)
        reset = accounts.reset_password_token(connection, world.owner, by=world.admin)
        invites = accounts.open_invites(connection)
    world.token, world.response_ids = view.token, tuple(output.id for output in view.outputs)
    world.parameters = {
        "version": "0",
        "name": "style.css",
        "assignment_id": view.id,
        "task_id": view.task_id,
        "batch_id": batches["rank"],
        "person_id": world.owner,
        "invite_id": invites[0].id,
        "token": invite,
        "reset_token": reset,
    }
    return world


def keep(world: World, file: Path) -> None:
    """Copy the database aside."""
    with closing(sqlite3.connect(_path(world))) as source, closing(sqlite3.connect(file)) as target:
        source.backup(target)


def restore(world: World, file: Path) -> None:
    """Make the database what it was when it was copied aside."""
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(_path(world))) as target:
        source.backup(target)


def dump(world: World) -> str:
    """Everything in the database."""
    with closing(sqlite3.connect(_path(world))) as connection:
        return "\n".join(connection.iterdump())


def _path(world: World) -> Path:
    path = world.site.database.path
    assert path is not None
    return path
