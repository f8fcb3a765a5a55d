"""The records of a further round: those it began with, and labelers' answers in it. What arrives later waits.

This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from heedful.align.labeling_database import OTHERS
from heedful.align.rounds import Opened
from heedful.align.who_labels import Labelers
from heedful.labeling.usage.usage_export import PLAYGROUND
from heedful.project.data_folder import Records
from heedful.project.ended_rounds import Known, first_stage, read_known
from heedful.project.project import Project
from heedful.project.runs import records_in, with_records


def records_of_round(project: Project, labelers: Labelers, opened: Opened, runs: Mapping[str, Path], known: Records) -> Records:
    """All records that a round in progress may use. Before its first stage is done, these are all records.

    runs: folders of the finished stages of this round and earlier ones, by name. known: the records of round 1.
    """
    records = _with_votes_of_people(known, project) if labelers.invents_data else known
    for number in range(2, opened.number + 1):
        if (folder := runs.get(first_stage(number))) is not None:
            records = with_records(records, folder, ("prompt",))
        if (folder := runs.get(f"collect_{number}")) is not None:
            records = with_records(records, folder / OTHERS, ("prompt", "response"))
            records = with_records(records, folder, ("response", "ranking"))
    begun = runs.get(first_stage(opened.number))
    if begun is None:
        return records
    return _of_round(records, read_known(begun), runs.get(f"collect_{opened.number}"))


def _of_round(records: Records, known: Known, collect: Path | None) -> Records:
    """The records without those that arrived after the round had begun. ``collect``: the folder of its ranking tasks."""
    asked = set() if collect is None else {response.id for response in records_in(collect, "response")}
    prompts = {id: prompt for id, prompt in records.prompts.items() if id in known.prompts}
    return Records(
        prompts=prompts,
        responses={id: one for id, one in records.responses.items() if one.prompt_id in prompts},
        demonstrations={
            id: one for id, one in records.demonstrations.items() if id in known.demonstrations and one.prompt_id in prompts
        },
        rankings={
            id: one
            for id, one in records.rankings.items()
            if one.prompt_id in prompts and (id in known.rankings or asked.issuperset(one.response_ids))
        },
    )


def _with_votes_of_people(records: Records, project: Project) -> Records:
    """Add people's preferences from the playground, because simulated labelers know only their own rankings."""
    if not project.data.is_dir():
        return records
    data = Records.load(project.data)
    said = {id: one for id, one in data.rankings.items() if one.metadata.get("source") == PLAYGROUND}
    named = {i: data.responses[i] for one in said.values() for i in one.response_ids}
    return Records(
        prompts=records.prompts,
        responses={**records.responses, **named},
        demonstrations=records.demonstrations,
        rankings={**records.rankings, **said},
        ratings=records.ratings,
    )
