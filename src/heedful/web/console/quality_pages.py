"""The console's pages on quality: agreement, gold tasks and signs of carelessness, screening."""

from __future__ import annotations

import hashlib
import hmac
from typing import Literal, cast

from starlette.responses import Response

from heedful.errors import DataError
from heedful.labeling.console import queue_progress
from heedful.labeling.quality import candidate_screening, carefulness, labeler_agreement
from heedful.labeling.quality.labeler_agreement import Scope
from heedful.statistics import CarelessnessThresholds, ScreeningCutoffs, screening_table, topic_coverage
from heedful.web.console.kept import kept_of
from heedful.web.label.words import RATING_FLAG_WORDS
from heedful.web.routing import Form, Routes, Visit, Visiting

PAPER_AGREEMENT = 0.726
"""The paper's agreement among training labelers (SPEC 2.4)."""


def routes(add: Routes) -> None:
    """Agreement, quality, screening."""
    add.get("/console/agreement", show_agreement, who="researcher")
    add.get("/console/quality", show_quality, who="researcher")
    add.get("/console/screening", show_screening, who="researcher")
    add.post("/console/screening/decide", decide, who="researcher")
    add.post("/console/screening/score", make_scoring_tasks, who="researcher")


def scope_of(visit: Visit) -> Scope:
    """The batch, phase and labelers in the page's address. Raises DataError."""
    asked = visit.request.query_params
    batch, phase, labelers = asked.get("batch", ""), asked.get("phase", ""), asked.get("labelers", "")
    if (batch and not (batch.isdecimal() and len(batch) < 10)) or phase not in ("", "training", "evaluation"):
        raise DataError(
            "this cannot be shown", expected="a batch's number, and training or evaluation", got=f"{batch} {phase}"[:40]
        )
    return Scope(
        batch_id=int(batch) if batch else None,
        phase=cast("Literal['training', 'evaluation']", phase) or None,
        simulated={"people": False, "simulated": True}.get(labelers),
    )


def show_agreement(visit: Visiting) -> Response:
    """How labelers agree: overall, by group, each with the others and with the researchers; coefficients; flags."""
    scope = scope_of(visit)

    def compute() -> labeler_agreement.AgreementReport:
        with visit.database.read() as connection:
            return labeler_agreement.agreement(connection, scope)

    kept = kept_of(visit).get(("agreement", scope), compute)
    with visit.database.read() as connection:
        batches = queue_progress.batch_names(connection)
    return visit.page(
        "console/agreement.html",
        report=kept.value,
        at=kept.at,
        scope=scope,
        batches=batches,
        paper=PAPER_AGREEMENT,
        flag_words=RATING_FLAG_WORDS,
        max_rankings=labeler_agreement.MAX_RANKINGS,
    )


def show_quality(visit: Visiting) -> Response:
    """Scores on gold tasks and signs of carelessness, with explanations."""

    def compute() -> tuple[carefulness.GoldReport, list]:
        with visit.database.read() as connection:
            return carefulness.gold(connection), carefulness.careless(connection)

    kept = kept_of(visit).get("attention", compute)
    gold, rows = kept.value
    return visit.page(
        "console/quality.html",
        gold=gold,
        rows=rows,
        flagged=[row for row in rows if row.signs],
        at=kept.at,
        each=carefulness.MAX_SUBMISSIONS,
        thresholds=CarelessnessThresholds(),
    )


# ---------------------------------------------------------------------------------------------------- screening


def show_screening(visit: Visiting) -> Response:
    """The table for selecting the team: codes, no names."""
    with visit.database.read() as connection:
        found = candidate_screening.screening(connection, _secret(visit))
    rows = screening_table(found.records)
    met = [row.candidate for row in rows if row.standing == "met"]
    return visit.page(
        "console/screening.html",
        rows=rows,
        found=found,
        coverage=topic_coverage(found.records, [record.candidate for record in found.records], found.topics),
        coverage_met=topic_coverage(found.records, met, found.topics),
        cutoffs=ScreeningCutoffs(),
    )


def decide(visit: Visiting, form: Form) -> Response:
    """Select or decline the candidates behind these codes, all of them or none."""
    choice, codes = form.text("choice"), sorted(set(form.all("code")))
    if choice not in ("select", "decline"):
        raise DataError("that is not a decision", expected="select or decline", got=choice[:20])
    if not codes:
        raise DataError(
            "no candidate is chosen", expected="at least one ticked code", got="none", next_step="go back and tick some"
        )
    with visit.database.write() as connection:
        for code in codes:
            candidate_screening.decide(
                connection,
                _secret(visit),
                code,
                selected=choice == "select",
                note=form.text("note", "").strip(),
                decided_by=visit.person.id,
            )
    said = "selected: in the training group from now on" if choice == "select" else "declined"
    return visit.go("/console/screening", flash=f"{', '.join(codes)} {said}.")


def make_scoring_tasks(visit: Visiting, form: Form) -> Response:
    """Make tasks for researchers to score the candidates' demonstrations."""
    with visit.database.write() as connection:
        made = candidate_screening.make_scoring_tasks(connection, created_by=visit.person.id)
    if not made:
        return visit.go("/console/screening", flash="Every demonstration has its scoring task already.")
    return visit.go("/console/screening", flash=f"Made {made} scoring tasks. Researchers find them under Tasks.")


def _secret(visit: Visit) -> bytes:
    """The secret behind candidates' codes, derived from the application's key, which no page shows."""
    return hmac.digest(visit.settings.key, b"screening codes", hashlib.sha256)
