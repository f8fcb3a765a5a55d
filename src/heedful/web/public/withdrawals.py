"""After an opt-out: clean the project's records at once, and tell the page the result."""

from __future__ import annotations

from heedful.errors import HeedfulError
from heedful.labeling.usage import consent
from heedful.project.project import Project
from heedful.prompts.withdrawing import apply_withdrawals
from heedful.web.routing import Visit
from heedful.web.security import log


def clean_project(visit: Visit) -> str:
    """Erase what was withdrawn from the project's records; return the message for the page. The next import retries."""
    if visit.settings.project is None:
        with visit.database.read() as connection:
            keys = consent.pending(connection)
        if keys:
            with visit.database.write() as connection:
                consent.applied(connection, {key: {"erased": {}, "runs": []} for key in keys})
        return "Neither it nor anything made from it will be used for training."
    try:
        report = apply_withdrawals(visit.database, Project.load(visit.settings.project))
    except HeedfulError as error:
        log.error("withdrawals could not be applied: %s", error.message)
        return (
            "It will not be used for training any more. The project's records could not be cleaned yet: "
            "this is done before the next import or training."
        )
    erased = ", ".join(f"{count} {kind}" for kind, count in report.erased.items() if count)
    said = ["Neither it nor anything made from it will be used for training."]
    if erased:
        said.append(f"Erased from the project's records: {erased}.")
    if report.runs:
        names = ", ".join(run.name for run in report.runs)
        said.append(f"It may have been used already by: {names}. Tell the researchers if you want these models retrained.")
    return " ".join(said)
