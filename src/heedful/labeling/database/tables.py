"""The tables of the labeling database: people, tasks, answers, and the audit log (SPEC 2).

SQLAlchemy Core, the same on SQLite and PostgreSQL. Times are seconds since 1970 in UTC (float), so that both databases, and
copies from one to the other, hold exactly the same values. Answers are never overwritten: a correction is a new row, and scores
are derived.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

Json = JSON(none_as_null=True)  # None is NULL, not the JSON value null

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# ---------------------------------------------------------------- people

person = Table(
    "person",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("pseudonym", String(40), nullable=False, unique=True),  # what exports and researchers see
    Column("name", Text, nullable=False),
    Column("email", String(320), unique=True),  # lower case; none: simulated, cannot log in
    Column("password_hash", Text),  # argon2id
    Column("role", String(20), nullable=False),  # labeler | researcher | admin
    Column("group_name", String(20), nullable=False),  # training | held_out | candidate (being screened); SPEC 2.4
    Column("simulated", Boolean, nullable=False, default=False),
    Column("daily_limit", Integer),  # answers in 24 hours; none: no limit
    Column("created", Double, nullable=False),
    Column("disabled", Double),  # cannot log in since then
)

invite = Table(
    "invite",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("token_hash", String(64), nullable=False, unique=True),  # SHA-256 of what is in the link
    Column("purpose", String(20), nullable=False),  # join | reset_password
    Column("role", String(20), nullable=False),
    Column("group_name", String(20), nullable=False),
    Column("person_id", ForeignKey("person.id")),  # whose password is to be reset
    Column("created_by", ForeignKey("person.id")),  # none: printed at the first start
    Column("created", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("used", Double),
    Column("used_by", ForeignKey("person.id")),
)

session = Table(
    "session",
    metadata,
    Column("token_hash", String(64), primary_key=True),
    Column("person_id", ForeignKey("person.id"), nullable=False, index=True),
    Column("csrf_token", String(64), nullable=False),
    Column("created", Double, nullable=False),
    Column("last_seen", Double, nullable=False),
    Column("expires", Double, nullable=False),
)

login_failure = Table(
    "login_failure",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("key", String(80), nullable=False),  # of an address or an account, hashed
    Column("at", Double, nullable=False),
    Index("ix_login_failure_key_at", "key", "at"),
)

# ---------------------------------------------------------------- what is worked on

prompt = Table(
    "prompt",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("text", Text, nullable=False),  # of all turns; searches read it
    Column("turns", Json),  # [{"role": …, "text": …}, …]; NULL: the text is the user's only turn
    Column("use_case", String(40)),
    Column("source", String(20), nullable=False),
    Column("owner", String(200), index=True),  # records.Prompt.user
    Column("split", String(10), nullable=False),
    Column("language", String(20)),
    Column("details", Json, nullable=False),  # records.Prompt.metadata
    Column("created", Double, nullable=False),
)

response = Table(
    "response",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("prompt_id", ForeignKey("prompt.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("model", Text),  # never shown to a labeler
    Column("finished", Boolean, nullable=False),
    Column("phase", String(20), nullable=False, server_default="training"),  # what it was written for
    Column("sampling", Json, nullable=False),  # temperature, seed ...
    Column("created", Double, nullable=False),
)

batch = Table(  # tasks that were made together, and the rules for serving them
    "batch",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", String(30), nullable=False, index=True),  # queue.kinds.TaskKind
    Column("phase", String(20), nullable=False),  # training | evaluation | screening
    Column("overlap", Integer, nullable=False),  # labelers per task
    Column("priority", Integer, nullable=False),  # higher is served first
    Column("per_labeler_limit", Integer),  # answers of one labeler in this batch
    Column("lease_seconds", Double, nullable=False),
    Column("created_by", ForeignKey("person.id")),
    Column("created", Double, nullable=False),
    Column("closed", Double),  # its tasks are not served since then
)

task = Table(
    "task",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("batch_id", ForeignKey("batch.id"), nullable=False),
    # Copied from the batch; a single task's priority may be raised.
    Column("kind", String(30), nullable=False),
    Column("phase", String(20), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("prompt_id", ForeignKey("prompt.id"), index=True),
    Column("payload", Json, nullable=False),  # what else this kind needs (see queue.payloads)
    Column("gold", Json),  # the researchers' answer, never shown; a gold task is served like any other
    Column("wanted", Integer, nullable=False),  # answers
    Column("held", Integer, nullable=False, default=0),  # answers and running leases; no surplus answers
    Column("answered", Integer, nullable=False, default=0),  # no surplus answers
    Column("skipped", Integer, nullable=False, default=0),  # people who skipped it
    Column("state", String(20), nullable=False),  # open | done | set_aside (skipped too often) | withdrawn
    Column("shuffle", Double, nullable=False),  # random: the order of service within a priority (highest first)
    Column("created", Double, nullable=False),
    Index("ix_task_service", "batch_id", "state", "priority", "shuffle"),  # read backwards by claims
)

task_response = Table(
    "task_response",
    metadata,
    Column("task_id", ForeignKey("task.id"), primary_key=True),
    Column("position", Integer, primary_key=True),  # in the task, not on a labeler's screen
    Column("response_id", ForeignKey("response.id"), nullable=False, index=True),
)

# ---------------------------------------------------------------- who works on what

assignment = Table(  # one person's work on one task: the lease, the draft, the answer
    "assignment",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("task_id", ForeignKey("task.id"), nullable=False),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("token", String(64), nullable=False),  # of the current lease; a submitted answer must carry it
    Column("state", String(20), nullable=False),  # leased | answered | skipped | expired | released
    Column("shown_order", Json, nullable=False),  # response ids as this labeler saw them, left to right
    Column("instruction_id", ForeignKey("instruction.id")),  # the version in force when it was leased
    Column("leased", Double, nullable=False),
    Column("expires", Double, nullable=False),
    Column("draft", Json),
    Column("draft_version", Integer, nullable=False, default=0),  # grows with each saved draft
    Column("draft_saved", Double),
    Column("answer", Json),  # exactly as submitted
    Column("answered", Double),  # or skipped
    Column("late", Boolean, nullable=False, default=False),  # submitted after the lease had expired
    Column("surplus", Boolean, nullable=False, default=False),  # the task had enough answers, or was withdrawn
    Column("seconds_spent", Double),  # while the page was visible, as the browser counted
    Column("skip_reason", Text),
    UniqueConstraint("task_id", "person_id"),
    Index("ix_assignment_person", "person_id", "state", "answered", "task_id"),
    Index("ix_assignment_lease", "state", "expires"),
)

superseded_answer = Table(  # an answer that was corrected or sent back: kept only here, so that nothing counts or uses it
    "superseded_answer",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("assignment_id", ForeignKey("assignment.id"), nullable=False, index=True),
    Column("instruction_id", ForeignKey("instruction.id")),
    Column("shown_order", Json, nullable=False),
    Column("record_ids", Json, nullable=False),  # of its demonstration, ranking, ratings or annotations: never used again
    Column("answer", Json, nullable=False),  # exactly as submitted
    Column("answered", Double, nullable=False),
    Column("late", Boolean, nullable=False),
    Column("seconds_spent", Double),
    Column("superseded", Double, nullable=False),
    Column("superseded_by", ForeignKey("person.id"), nullable=False),  # the labeler, or who sent it back
)

# ---------------------------------------------------------------- what was answered

demonstration = Table(
    "demonstration",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("assignment_id", ForeignKey("assignment.id"), index=True),
    Column("prompt_id", ForeignKey("prompt.id"), nullable=False, index=True),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("text", Text, nullable=False),
    Column("created", Double, nullable=False),
)

ranking = Table(
    "ranking",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("assignment_id", ForeignKey("assignment.id"), index=True),
    Column("prompt_id", ForeignKey("prompt.id"), nullable=False, index=True),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("response_ids", Json, nullable=False),
    Column("ranks", Json, nullable=False),  # 1 best, equal: a tie
    Column("created", Double, nullable=False),
)

rating = Table(
    "rating",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("assignment_id", ForeignKey("assignment.id"), index=True),
    Column("prompt_id", ForeignKey("prompt.id"), nullable=False, index=True),
    Column("response_id", ForeignKey("response.id"), nullable=False, index=True),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("overall", Integer, nullable=False),
    Column("flags", Json, nullable=False),
    Column("created", Double, nullable=False),
)

annotation = Table(  # every other answer about a prompt or a response: Table 7's fields, PII review, toxicity, screening
    "annotation",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("assignment_id", ForeignKey("assignment.id"), index=True),
    Column("kind", String(30), nullable=False, index=True),
    Column("prompt_id", ForeignKey("prompt.id"), index=True),
    Column("response_id", ForeignKey("response.id"), index=True),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("value", Json, nullable=False),
    Column("created", Double, nullable=False),
)

# ---------------------------------------------------------------- around the work

instruction = Table(
    "instruction",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", String(30), nullable=False),
    Column("phase", String(20), nullable=False),
    Column("version", Integer, nullable=False),
    Column("markdown", Text, nullable=False),
    Column("change_note", Text, nullable=False),
    Column("author_id", ForeignKey("person.id")),
    Column("created", Double, nullable=False),
    UniqueConstraint("kind", "phase", "version"),
)

acknowledgement = Table(
    "acknowledgement",
    metadata,
    Column("person_id", ForeignKey("person.id"), primary_key=True),
    Column("instruction_id", ForeignKey("instruction.id"), primary_key=True),
    Column("at", Double, nullable=False),
)

problem = Table(  # a labeler's question or report to the researchers, and their answer
    "problem",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("person_id", ForeignKey("person.id"), nullable=False, index=True),
    Column("task_id", ForeignKey("task.id"), index=True),
    Column("text", Text, nullable=False),
    Column("created", Double, nullable=False),
    Column("answer", Text),
    Column("answered_by", ForeignKey("person.id")),
    Column("answered", Double),
    Column("seen", Double),  # the answer, by the labeler
)

screening_decision = Table(
    "screening_decision",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("person_id", ForeignKey("person.id"), nullable=False, index=True),
    Column("code", String(20), nullable=False),  # stands for the candidate: selection is on anonymised data (SPEC 2.1)
    Column("selected", Boolean, nullable=False),
    Column("note", Text, nullable=False),
    Column("decided_by", ForeignKey("person.id"), nullable=False),
    Column("at", Double, nullable=False),
)

survey_answer = Table(  # anonymous: no person, no time
    "survey_answer",
    metadata,
    Column("id", String(40), primary_key=True),  # random
    Column("survey", String(30), nullable=False),  # demographics | satisfaction
    Column("answers", Json, nullable=False),
)

survey_taken = Table(  # who has been asked; cannot be joined with the answers
    "survey_taken",
    metadata,
    Column("survey", String(30), primary_key=True),
    Column("person_id", ForeignKey("person.id"), primary_key=True),
)

event = Table(  # append-only (triggers refuse UPDATE and DELETE): who did what to what, and when
    "event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Double, nullable=False, index=True),
    Column("person_id", ForeignKey("person.id"), index=True),  # none: the command line
    Column("action", String(40), nullable=False, index=True),
    Column("subject", String(30), nullable=False),  # a table's name
    Column("subject_id", String(200), nullable=False, index=True),
    Column("before", Json),
    Column("after", Json),
)

# ---------------------------------------------------------------- indexes for the researchers' console
# By time, then by id: a page continues where the last one ended, even if a million rows came at once.
for _table in (prompt, response, demonstration, ranking, rating, annotation):
    Index(f"ix_{_table.name}_newest", _table.c.created, _table.c.id)
for _table in (demonstration, ranking, rating, annotation):
    Index(f"ix_{_table.name}_of_person", _table.c.person_id, _table.c.created, _table.c.id)
Index("ix_task_progress", task.c.batch_id, task.c.state, task.c.wanted, task.c.answered)  # counts read only this index
Index("ix_task_gold", task.c.id, sqlite_where=task.c.gold.isnot(None), postgresql_where=task.c.gold.isnot(None))
Index("ix_assignment_late", assignment.c.task_id, sqlite_where=text("late"), postgresql_where=text("late"))
Index(
    "ix_problem_open",
    problem.c.created,
    sqlite_where=problem.c.answered.is_(None),
    postgresql_where=problem.c.answered.is_(None),
)
