"""The console's pages on the playground and the API: votes for researchers, keys for admins."""

from __future__ import annotations

import io
import time
from collections import Counter
from typing import Any, cast

from starlette.responses import Response

from heedful.errors import DataError, HeedfulError, MissingError
from heedful.labeling.database import events
from heedful.labeling.people import accounts
from heedful.labeling.usage import api_keys, blind_votes, usage_log
from heedful.labeling.usage.admission import MONTH
from heedful.labeling.usage.api_keys import PURPOSES, SCOPES, NewKey
from heedful.web.routing import Form, Id, Routes, Visit, Visiting
from heedful.web.sent_forms import FormValues


def routes(add: Routes) -> None:
    """Votes, usage, keys."""
    add.get("/console/votes", show_votes, who="researcher")
    add.post("/console/votes/export", export_votes, who="researcher")
    add.get("/console/usage", show_usage, who="researcher")
    add.get("/admin/keys", show_all_keys, who="admin")
    add.post("/admin/keys", make_key, who="admin")
    add.post("/admin/keys/{key_id}/revoke", revoke_key, who="admin")


# ---------------------------------------------------------------------------------------------------- votes


def show_votes(visit: Visiting) -> Response:
    """How models did in blind comparisons."""
    won: Counter[tuple[str, str]] = Counter()
    tied: Counter[frozenset[str]] = Counter()
    bad: Counter[frozenset[str]] = Counter()
    number = marked = 0
    with visit.database.read() as connection:
        for cast_vote in blind_votes.votes_cast(connection):
            number += 1
            marked += bool(cast_vote.gave_away)
            for pair in blind_votes.pairs(cast_vote):
                both = frozenset((pair.model_a, pair.model_b))
                if pair.winner == "tie":
                    tied[both] += 1
                elif pair.winner == "both_bad":
                    bad[both] += 1
                else:
                    won[pair.winner, pair.model_b if pair.winner == pair.model_a else pair.model_a] += 1
    couples = sorted({frozenset(one) for one in won} | set(tied) | set(bad), key=sorted)
    rows = []
    for couple in couples:
        first, second = sorted(couple) if len(couple) == 2 else [*couple, *couple]
        rows.append((first, second, won[first, second], won[second, first], tied[couple], bad[couple]))
    return visit.page("console/votes.html", rows=rows, number=number, marked=marked)


def export_votes(visit: Visiting, form: Form) -> Response:
    """All votes as a table for ``heedful evaluate votes``. The audit log records who exports, so this is not a GET."""
    blind = form.has("blind")
    with visit.database.write() as connection:
        file = io.StringIO(newline="")
        number = blind_votes.write_csv(blind_votes.votes_cast(connection, gave_away=not blind), file)
        events.record(
            connection,
            person_id=visit.person.id,
            action="export_votes",
            subject="model_vote",
            subject_id="all",
            after={"rows": number, "without_marked": blind},
        )
    headers = {"Content-Disposition": 'attachment; filename="votes.csv"'}
    return Response(file.getvalue(), media_type="text/csv; charset=utf-8", headers=headers)


# ---------------------------------------------------------------------------------------------------- usage and keys


def show_usage(visit: Visiting) -> Response:
    """The usage of keys, and the flags of their requests; no texts."""
    with visit.database.read() as connection:
        keys = api_keys.all_keys(connection)
        usage = usage_log.usage_by_key(connection)
        days = usage_log.per_day(connection)
        flagged = usage_log.flagged_requests(connection, since=time.time() - MONTH, limit=50)
    return visit.page("console/usage.html", keys=keys, usage=usage, per_day=days, flagged=flagged)


def show_all_keys(visit: Visiting) -> Response:
    """All keys, and the form for a new one."""
    return _keys_page(visit, {})


def make_key(visit: Visiting, form: Form) -> Response:
    """Make a key and show it, once."""
    try:
        new = _new_key(form)
        with visit.database.write() as connection:
            _, secret = api_keys.make(connection, new, by=visit.person.id)
            owner = accounts.get_person(connection, new.person_id)
    except (DataError, MissingError) as error:
        fields = {name: form.text(name) for name in form.names()}
        return _keys_page(visit, fields, scopes=form.all("scope"), problem=error)
    return visit.page("console/admin/new_key.html", secret=secret, new=new, owner=owner)


def _new_key(form: FormValues) -> NewKey:
    return NewKey(
        person_id=form.whole("person_id", 0) or 0,
        name=form.text("name", ""),
        purpose=cast("Any", form.text("purpose", "playground")),
        scopes=cast("Any", tuple(form.all("scope"))),
        uses=tuple(form.text("uses", "").replace(",", " ").split()),
        training=form.has("training"),
        per_minute=form.whole("per_minute", 0) or 0,
        per_day=form.whole("per_day"),
        tokens_per_month=form.whole("tokens_per_month"),
        keep_days=form.whole("keep_days"),
    )


def revoke_key(visit: Visiting, key_id: Id) -> Response:
    """Make a key stop working."""
    with visit.database.write() as connection:
        api_keys.revoke(connection, key_id, by=visit.person.id, own_only=False)
    return visit.go("/admin/keys", flash="The key no longer works.")


def _keys_page(
    visit: Visit, fields: dict[str, str], *, scopes: list[str] | None = None, problem: HeedfulError | None = None
) -> Response:
    with visit.database.read() as connection:
        keys = api_keys.all_keys(connection)
        usage = usage_log.usage_by_key(connection)
        people = [who for who in accounts.all_people(connection) if not who.simulated and who.disabled is None]
    return visit.page(
        "console/admin/keys.html",
        status=200 if problem is None else 422,
        fields=fields,
        chosen_scopes=SCOPES if scopes is None else scopes,
        keys=keys,
        usage=usage,
        people=people,
        scopes=SCOPES,
        purposes=PURPOSES,
        problem=problem,
    )
