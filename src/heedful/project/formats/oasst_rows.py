"""Open-Assistant messages (OASST1 and OASST2): one tree per row (``*_trees.jsonl``), or one message per row.

A row may also be a tree's first message with the others nested in it. Rows of single messages have ``parent_id`` and
``message_tree_id``, as in the Parquet files.

- A prompt is the conversation up to each prompter message; those without an answer are prompts too.
- Every assistant reply is a response; two or more sibling replies with ranks make a ranking.
- The best-ranked reply that a person wrote is the demonstration. A single reply needs no rank; several replies without
  ranks give no demonstration.
- Deleted messages and spam (a failed review, or the label ``spam`` at 0.5 or more) are left out with everything below them.
  Replies by a model stay in rankings under its name and are never demonstrations.
- All prompts of a tree belong to the user who opened it, so a tree is in one split.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from heedful.conversation import Turn, prompt_turns, response_text
from heedful.project.formats.ranked_rows import number_of
from heedful.project.formats.rows import (
    BadRow,
    Draft,
    SkippedRow,
    an_object,
    new_demonstration,
    new_prompt,
    new_ranking,
    new_response,
    optional_text,
    text_of,
)
from heedful.project.structure import shown
from heedful.records import Prompt, Response

SAMPLE = (
    '{"message_tree_id": "…", "tree_state": "ready_for_export", "prompt": {"message_id": "…", "role": "prompter", '
    '"text": "…", "replies": [{"role": "assistant", "text": "…", "rank": 0, "replies": []}]}}'
)

_CLOSED_STATES = ("aborted_low_grade", "halted_by_moderator", "initial_prompt_review")
_SPAM = "messages that are spam or failed review, left out"
_DELETED = "deleted messages left out"
_HANGING = "messages under a deleted, spam or empty one, left out"

Message = dict[str, Any]


def tree_group(row: Any) -> str | None:
    """Single messages of one tree belong together."""
    tree = row.get("message_tree_id")
    return tree if isinstance(tree, str) and "message_id" in row and "prompt" not in row and "replies" not in row else None


def _tree_of_messages(messages: list[Any]) -> dict[str, Any]:
    """The root of a tree of single messages, with the others nested below it."""
    nested = {text_of(message, "message_id"): {**_checked(message), "replies": []} for message in messages}
    if len(nested) != len(messages):
        raise BadRow("two messages of the tree have one message_id")
    roots = [message for message in nested.values() if message.get("parent_id") is None]
    if len(roots) != 1:
        raise BadRow(f"{len(roots)} messages of the tree have no parent_id; exactly one should have none")
    for message in nested.values():
        parent = optional_text(message, "parent_id")
        if parent is not None and parent not in nested:
            raise BadRow(f"the message {parent!r}, to which another replies, is not in the file")
        if parent is not None:
            nested[parent]["replies"].append(message)
    if sum(1 for _ in _below(roots[0])) + 1 < len(nested):
        raise BadRow("messages of the tree reply to each other in a circle")
    return {"prompt": roots[0], "tree_state": roots[0].get("tree_state")}


def read_tree(row: object, labeler: str | None) -> Draft:
    """The records of one tree, given as a tree or as the list of its messages. Raises BadRow, SkippedRow."""
    tree = _tree_of_messages([an_object(each) for each in row]) if isinstance(row, list) else an_object(row)
    if "role" in tree and "prompt" not in tree:  # the root message without the tree around it
        if "replies" not in tree:
            raise BadRow("a single message without replies: import the file of trees, not the one of messages")
        tree = {"prompt": tree}
    if str(tree.get("tree_state")) in _CLOSED_STATES:
        raise SkippedRow(f"tree_state is {tree['tree_state']}")
    root = tree.get("prompt")
    if not isinstance(root, dict) or "role" not in root:
        raise BadRow("no message tree under the key 'prompt'")
    if _checked(root)["role"] != "prompter":
        raise BadRow(f"the first message is by {shown(root['role'])}, not by the prompter")
    draft = Draft()
    if not _usable([root], draft):
        raise SkippedRow("the first message is deleted, empty or spam")
    who = labeler or "oasst"
    user = optional_text(root, "user_id")
    waiting: list[tuple[Message, list[Turn]]] = [(root, [])]
    while waiting:
        message, before = waiting.pop()
        turns: list[Turn] = [*before, Turn("user", message["text"])]
        prompt = _prompt(message, root, turns, user, draft)
        replies = _usable(_replies(message, "assistant"), draft)
        _answers(prompt, replies, who, draft)
        for reply in replies:
            for question in _usable(_replies(reply, "prompter"), draft):
                waiting.append((question, [*turns, Turn("assistant", reply["text"])]))
    return draft


def _checked(message: object) -> Message:
    message = an_object(message)
    text_of(message, "text")
    if message.get("role") not in ("prompter", "assistant"):
        raise BadRow(f"a message's role should be prompter or assistant and is {shown(message.get('role'))}")
    for key in ("deleted", "review_result", "synthetic"):
        if message.get(key) not in (None, True, False):
            raise BadRow(f"{key!r} should be true or false and is {shown(message[key])}")
    number_of(message.get("rank"), "rank")
    if not isinstance(message.get("labels") or {}, dict):
        raise BadRow(f"'labels' should be an object and is {shown(message['labels'])}")
    return message


def _replies(message: Message, role: str) -> list[Message]:
    replies = message.get("replies") or []
    if not isinstance(replies, list):
        raise BadRow(f"'replies' should be a list and is {shown(replies)}")
    checked = [_checked(reply) for reply in replies]
    if any(reply["role"] != role for reply in checked):
        raise BadRow(f"a reply to the {message['role']} that is not by the {role}")
    return checked


def _usable(messages: list[Message], draft: Draft) -> list[Message]:
    kept: list[Message] = []
    for message in messages:
        if message.get("deleted"):
            reason = _DELETED
        elif message.get("review_result") is False or _spam_label(message) >= 0.5:
            reason = _SPAM
        elif not message["text"].strip():
            reason = "empty messages left out"
        else:
            kept.append(message)
            continue
        draft.notes.append(reason)
        draft.notes += [_HANGING for _ in _below(message)]
    return kept


def _spam_label(message: Message) -> float:
    labels = message.get("labels") or {}
    names, values = labels.get("name"), labels.get("value")
    if isinstance(names, list) and isinstance(values, list):  # single messages have names and values as two lists
        spam = next((value for name, value in zip(names, values, strict=False) if name == "spam"), None)
    else:
        spam = labels.get("spam")
    return number_of(spam.get("value") if isinstance(spam, dict) else spam, "label for spam") or 0.0


def _below(message: Message) -> Iterator[Message]:
    waiting = list(message.get("replies") or [])
    while waiting:
        reply = waiting.pop()
        yield reply
        waiting += reply.get("replies") or []


def _prompt(message: Message, root: Message, turns: list[Turn], user: str | None, draft: Draft) -> Prompt:
    metadata = {"message_id": message.get("message_id"), "message_tree_id": root.get("message_id")}
    if message.get("synthetic"):
        metadata["synthetic"] = True
        draft.notes.append("prompts written by a model, kept and marked synthetic")
    language = optional_text(message, "lang")
    metadata = {key: value for key, value in metadata.items() if value is not None}
    prompt = new_prompt(prompt_turns(turns), user=user, language=language, metadata=metadata)
    draft.records.append(prompt)
    return prompt


def _answers(prompt: Prompt, replies: list[Message], labeler: str, draft: Draft) -> None:
    """Responses, the ranking of those with a rank, and the demonstration."""
    pairs: list[tuple[Message, Response]] = []
    for reply in sorted(replies, key=_rank):  # the better one of two equal texts is kept
        model = (optional_text(reply, "model_name") or "unknown model") if reply.get("synthetic") else "human"
        response = new_response(prompt, response_text(prompt.turns, reply["text"]), model)
        if any(response.text == other.text for _, other in pairs):
            draft.notes.append("replies with the same text as a sibling, left out")
        else:
            pairs.append((reply, response))
    draft.records += [response for _, response in pairs]
    draft.notes += ["replies written by a model, ranked but no demonstrations" for r, _ in pairs if r.get("synthetic")]
    ranked = [(response, _rank(reply)) for reply, response in pairs if reply.get("rank") is not None]
    if len(ranked) >= 2:
        draft.records.append(new_ranking(prompt, ranked, labeler))
        draft.notes += ["replies without a rank beside ranked ones, kept as responses"] * (len(pairs) - len(ranked))
    elif len(pairs) >= 2:
        draft.notes.append("prompts whose replies have no ranks: no ranking, no demonstration")
        return
    human = [reply for reply, _ in pairs if not reply.get("synthetic") and (reply.get("rank") is not None or len(pairs) == 1)]
    if human:
        author = optional_text(human[0], "user_id") or labeler
        draft.records.append(new_demonstration(prompt, response_text(prompt.turns, human[0]["text"]), author))


def _rank(reply: Message) -> float:
    rank = number_of(reply.get("rank"), "rank")
    return float("inf") if rank is None else rank
