"""The words of the audit page for each event: "bizoka submitted an answer"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ACTIONS: Mapping[str, str] = {
    "log_in": "logged in",
    "log_out": "logged out",
    "log_in_failed": "failed to log in",
    "invite": "made an invitation",
    "withdraw_invite": "withdrew a link",
    "join": "joined",
    "make_reset_link": "made a link to set a password",
    "set_password": "set a password",
    "change_person": "changed an account",
    "disable": "disabled an account",
    "enable": "enabled an account",
    "make_batch": "made a batch",
    "add_tasks": "added tasks",
    "edit_batch": "edited a batch",
    "close_batch": "closed a batch",
    "open_batch": "opened a batch",
    "set_priority": "changed a batch's priority",
    "withdraw_task": "withdrew a task",
    "set_aside_task": "set a task aside",
    "reopen_task": "put a task back into service",
    "upload": "uploaded prompts with outputs",
    "claim": "started a task",
    "renew": "went on with a task",
    "draft": "saved the first draft",
    "submit": "submitted an answer",
    "correct": "opened their answer again to correct it",
    "send_back": "sent an answer back",
    "skip": "skipped a task",
    "release": "gave a task back",
    "expire": "ran out of time on a task",
    "backup": "made a backup",
    "download_backup": "downloaded a backup",
    "ask": "asked a question",
    "answer_problem": "answered a question",
    "withdraw": "opted text out of training, or deleted it",
    "erase_withdrawn": "erased what was opted out",
    "delete_conversation": "deleted a conversation",
    "make_key": "made an API key",
    "revoke_key": "revoked an API key",
    "delete_texts": "deleted the texts of an API key's requests",
    "export_votes": "exported votes",
    "forget": "erased a prompt",
    "start_round": "started a round",
}
"""For other actions, the page shows their names."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Accounts and access": (
        "log_in", "log_out", "log_in_failed", "invite", "withdraw_invite", "join", "make_reset_link", "set_password",
        "change_person", "disable", "enable",
    ),
    "Batches and tasks": (
        "make_batch", "add_tasks", "edit_batch", "close_batch", "open_batch", "set_priority", "withdraw_task",
        "set_aside_task", "reopen_task", "upload",
    ),
    "Labelers' work": (
        "claim", "renew", "draft", "submit", "correct", "send_back", "skip", "release", "expire", "ask", "answer_problem",
    ),
    "Playground and API": (
        "withdraw", "erase_withdrawn", "delete_conversation", "make_key", "revoke_key", "delete_texts", "export_votes",
        "forget",
    ),
    "Rounds": ("start_round",),
    "Backups": ("backup", "download_backup"),
}  # fmt: skip
"""The groups of actions in the filter."""

_FIELDS: Mapping[str, str] = {
    "group_name": "group",
    "daily_limit": "answers a day",
    "per_labeler_limit": "answers of one labeler",
    "lease_seconds": "seconds to finish one",
    "answer_sha256": "SHA-256 of the answer",
    "overlap": "labelers for each task",
    "expires": "held until",
    "closed": "closed at",
}


def changes(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[tuple[str, Any, Any]]:
    """Each value in an event: its name, the value before and the value after (None: no value)."""
    was, became = dict(before or {}), dict(after or {})
    names = [*was, *(name for name in became if name not in was)]
    return [
        (_FIELDS.get(name, name.replace("_", " ")), was.get(name), became.get(name))
        for name in names
        if was.get(name) is not None or became.get(name) is not None
    ]
