"""``heedful evaluate reward``: numbers computed by hand on given scores, and the whole verb with a tiny reward model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from sqlalchemy import update
from tests.align.small_project import run, write_base_model, write_rows
from tests.labeling.labeling import add_person, add_ranking_tasks, rank_answer
from tests.tiny import END, tiny_gpt2, tiny_tokenizer
from transformers import AutoModelForSequenceClassification

from heedful.conversation import turns_of
from heedful.errors import ConfigError, DataError, MissingError
from heedful.evaluate.reward_evaluation import RewardEvaluation, as_numbers, evaluate_reward, group_table, in_words
from heedful.evaluate.reward_page import render_reward_page
from heedful.evaluate.reward_rankings import RankedRecords, rankings_of_file, rankings_of_project, training_rankings_of
from heedful.evaluate.reward_scoring import Scores, score_ranked
from heedful.labeling.database.connection import open_database
from heedful.labeling.database.tables import prompt
from heedful.labeling.exchange.labels import exported_records
from heedful.labeling.queue import leases
from heedful.model import load_scalar_model, save_model, scalar_model_from_causal
from heedful.project.files import write_jsonl
from heedful.project.importing import import_file
from heedful.project.project import Project, init_project
from heedful.records import Prompt, Ranking, Response

TEXTS = {"a": "good", "b": "ba", "c": "badbad", "d": "bad", "e": "good z"}
REWARDS = {"a": 2.0, "b": 0.0, "c": 2.0, "d": -1.0, "e": 1.0}


def ranking(prompt: str, labeler: str, **ranks: int) -> Ranking:
    return Ranking(
        id=f"{prompt}-{labeler}-{''.join(ranks)}",
        prompt_id=prompt,
        response_ids=tuple(ranks),
        ranks=tuple(ranks.values()),
        labeler=labeler,
    )


def records(rankings: list[Ranking], texts: dict[str, str]) -> RankedRecords:
    return RankedRecords(
        prompts={
            "p": Prompt(id="p", turns=turns_of("Say it."), use_case="chat"),
            "q": Prompt(id="q", turns=turns_of("Ask it.")),
        },
        responses={
            name: Response(id=name, prompt_id=r.prompt_id, text=texts[name]) for r in rankings for name in r.response_ids
        },
        rankings=rankings,
        source="invented",
    )


GIVEN = records(
    [
        ranking("p", "ann", a=1, b=2, c=2),
        ranking("p", "bob", b=1, a=2),
        ranking("q", "ann", d=1, e=1),
        ranking("q", "bob", d=1, e=2),
    ],
    TEXTS,
)
TRAINING = records([ranking("p", "ann", x=1, y=2)], {"x": "good", "y": "bad"})


def evaluated(*, training: RankedRecords | None = TRAINING, **scores: Any) -> RewardEvaluation:
    given: dict[str, Any] = {"by_response": REWARDS, "cut": (), "too_long": (), **scores}
    return evaluate_reward("rm", GIVEN, Scores(**given), training=training)


# ------------------------------------------------------------------------------------------- numbers by hand


def test_accuracy_and_ties() -> None:
    found = evaluated()
    # a over b right, a over c equal scores, b over a wrong, d over e wrong; b and c, d and e are labelers' ties.
    assert found.all_pairs.accuracy.value == 1.5 / 4
    assert (found.all_pairs.num_pairs, found.num_labeler_ties, found.num_model_ties) == (4, 2, 1)
    assert (found.num_rankings, found.num_prompts, found.num_labelers) == (4, 2, 2)
    assert (found.all_pairs.accuracy.num_prompts, found.all_pairs.accuracy.num_labelers) == (2, 2)
    two_way = found.all_pairs.accuracy.two_way
    assert two_way.low < two_way.value < two_way.high


def test_rules_that_know_nothing() -> None:
    found = evaluated()
    rules = {name: one.value for name, one in found.all_pairs.rules.items()}
    # The longer one wins in a over b only. "good" has a positive weight, "bad" a negative one, other words none.
    assert rules == {"longer wins": 1 / 4, "shorter wins": 3 / 4, "bag of words": 2 / 4}
    hard = found.where_longer_loses
    assert hard.num_pairs == 3
    assert hard.accuracy.value == pytest.approx(0.5 / 3)
    assert hard.rules["longer wins"].value == 0
    assert hard.rules["shorter wins"].value == 1


def test_lead_over_each_rule_is_pair_by_pair() -> None:
    leads = evaluated().all_pairs.leads
    # Of the pairs a-b, a-c, b-a, d-e the reward model is right on 1, 0.5, 0, 0, and "longer wins" on 1, 0, 0, 0.
    assert leads["longer wins"].value == 0.5 / 4
    assert leads["shorter wins"].value == -1.5 / 4
    # Residuals over 4 sum to +-0.03125 in p (3 pairs) and q (1 pair): V = 0.03125^2 / (1 / 4) + 0.03125^2 / (3 / 4), and
    # t = 12.7062 with one degree of freedom. As if the two accuracies were apart, it would be wider.
    by_prompt = leads["longer wins"].by_prompt
    half = 12.7062 * (0.03125**2 * (4 + 4 / 3)) ** 0.5
    assert (by_prompt.low, by_prompt.high) == pytest.approx((0.125 - half, 0.125 + half), abs=1e-5)
    (shown,) = [line.split() for line in in_words(evaluated()).splitlines() if line.split()[:3] == ["longer", "wins", "+12.5"]]
    assert " ".join(shown).endswith("-79.2 to +104.2")
    assert as_numbers(evaluated())["all_pairs"]["above_longer_wins"]["by_prompt"]["low"] == by_prompt.low
    assert "+12.5" in render_reward_page(evaluated())


def test_groups() -> None:
    groups = {
        title: {row.name: (row.num_pairs, round(row.accuracy.value, 9)) for row in rows}
        for title, rows in evaluated().groups.items()
    }
    assert groups == {
        "K": {"2": (2, 0.0), "3": (2, 0.75)},
        "use case": {"chat": (3, 0.5), "unknown": (1, 0.0)},
        "labeler": {"ann": (2, 0.75), "bob": (2, 0.0)},
        "margin": {"0 to 0": (1, 0.5), "2 to 2": (3, round(1 / 3, 9))},
    }


def test_intervals_are_over_prompts_and_labelers() -> None:
    (_, bob) = evaluated().groups["labeler"]
    assert (bob.accuracy.num_prompts, bob.accuracy.num_labelers) == (2, 1)
    header, _, shown = group_table("labeler", evaluated().groups["labeler"])
    assert header[3] == "by prompt"
    assert shown[3] != "n/a"  # one labeler says nothing of others, but two prompts something of other prompts
    chat = evaluated().groups["use case"][0]
    assert (chat.accuracy.num_prompts, chat.accuracy.num_labelers) == (1, 2)


def test_calibration() -> None:
    found = evaluated().calibration
    # Three pairs with sigmoid(2) = 0.880797, of which one is right; one pair with 0.5, which is half right.
    assert found.expected_calibration_error == pytest.approx(0.75 * (0.880797 - 1 / 3), abs=1e-6)
    assert [(one.count, one.accuracy) for one in found.bins] == [(1, 0.5), (3, pytest.approx(1 / 3))]


def test_best_of_n() -> None:
    found = evaluated()
    # Of p's responses: a wins 2 of 3 comparisons, b 1.5 of 3, c 0.5 of 2. a and c share the highest reward.
    assert found.num_best_of_prompts == 1
    assert [one.n for one in found.best_of] == [1, 2, 3]
    assert [one.reward.value for one in found.best_of] == pytest.approx([4 / 3, 2, 2])
    best = (2 / 3 + 1 / 4) / 2
    assert [one.wins.value for one in found.best_of] == pytest.approx([(2 / 3 + 1 / 2 + 1 / 4) / 3, best, best])


def test_what_is_cut_or_left_out_is_said() -> None:
    only_p = {name: REWARDS[name] for name in "abc"}
    found = evaluated(by_response=only_p, cut=("a",), too_long=("q",), training=None)
    assert found.num_rankings == 2
    said = in_words(found)
    assert "prompts that are too long: 1 (q); rankings left out: 2" in said
    assert "responses that are too long: 1 of 3 (a); each is scored at its last token within the limit" in said
    assert "no bag of words: there are no rankings to train it on: add --project" in said
    assert "bag of words" not in found.all_pairs.rules


def test_words_numbers_and_page_agree() -> None:
    found = evaluated()
    said, page, numbers = in_words(found), render_reward_page(found), as_numbers(found)
    assert "4 pairs; 2 more that labelers tied are left out; 1 with equal scores count half" in said
    assert numbers["all_pairs"]["accuracy"]["two_way"]["value"] == 0.375
    assert numbers["all_pairs"]["longer_wins"]["two_way"]["value"] == 0.25
    assert [row["name"] for row in numbers["by_k"]] == ["2", "3"]
    assert page.count("<svg") == 3
    assert "37.5 %" in page
    assert "37.5 %" in said
    assert "http://" not in page.replace("http://www.w3.org/", "")  # nothing is loaded from elsewhere
    assert page == render_reward_page(evaluated())


def test_a_single_labeler_says_nothing_of_others() -> None:
    given = records([ranking("p", "ann", a=1, b=2, c=3)], TEXTS)
    found = evaluate_reward("rm", given, Scores(by_response={name: REWARDS[name] for name in "abc"}, cut=(), too_long=()))
    assert "note: n/a: with one labeler or one prompt, nothing is known about others" in in_words(found)
    assert as_numbers(found)["all_pairs"]["pairs"] == 3
    assert "n/a" in render_reward_page(found)


def test_nothing_to_be_right_about() -> None:
    tied = records([ranking("q", "ann", d=1, e=1)], TEXTS)
    with pytest.raises(DataError, match="no comparison"):
        evaluate_reward("rm", tied, Scores(by_response=REWARDS, cut=(), too_long=()))
    with pytest.raises(ConfigError, match="confidence"):
        evaluate_reward("rm", GIVEN, Scores(by_response=REWARDS, cut=(), too_long=()), confidence=95)


# ------------------------------------------------------------------------------------------- rankings and scores


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "rm"
    save_model(scalar_model_from_causal(tiny_gpt2(), pad_token_id=None, eos_token_id=END), tiny_tokenizer(), folder)
    return folder


PROMPT, ANSWERS = "w5 w6 w7", {"r1": "w8 w9", "r2": "w10", "r3": "w11 w12 w13 w14"}
ROWS: list[dict[str, Any]] = [
    {"kind": "prompt", "id": "p", "text": PROMPT, "split": "valid", "use_case": "chat"},
    *({"kind": "response", "id": name, "prompt_id": "p", "text": text} for name, text in ANSWERS.items()),
    {"kind": "ranking", "id": "k1", "prompt_id": "p", "response_ids": ["r1", "r2", "r3"], "ranks": [1, 2, 3], "labeler": "ann"},
    {"kind": "ranking", "id": "k2", "prompt_id": "p", "response_ids": ["r3", "r2"], "ranks": [1, 1], "labeler": "bob"},
]


def plain_scores(folder: Path, limit: int = 100) -> dict[str, float]:
    """By plain transformers, one response at a time."""
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder), tiny_tokenizer()
    scores: dict[str, float] = {}
    for name, text in ANSWERS.items():
        response = [*tokenizer(text)["input_ids"], END][:limit]
        with torch.no_grad():
            scores[name] = float(model(torch.tensor([[*tokenizer(PROMPT)["input_ids"], *response]])).logits[0, 0])
    return scores


def test_scores_are_those_of_plain_transformers(tmp_path: Path, reward_model: Path) -> None:
    given = rankings_of_file(write_rows(tmp_path / "labels.jsonl", ROWS))
    model, quiet = load_scalar_model(reward_model), Console(quiet=True)
    found = score_ranked(model, tiny_tokenizer(), given, template="plain", console=quiet)
    assert found.by_response == pytest.approx(plain_scores(reward_model), abs=1e-4)
    assert (found.cut, found.too_long) == ((), ())
    cut = score_ranked(model, tiny_tokenizer(), given, template="plain", max_response_tokens=3, console=quiet)
    assert cut.cut == ("r3",)
    assert cut.by_response == pytest.approx(plain_scores(reward_model, 3), abs=1e-4)
    with pytest.raises(DataError, match="no prompt can be scored"):
        score_ranked(model, tiny_tokenizer(), given, template="plain", max_prompt_tokens=2, console=quiet)


def test_bad_rows_are_named(tmp_path: Path) -> None:
    bad = {"kind": "ranking", "id": "k3", "prompt_id": "p", "response_ids": ["r1", "r9"], "ranks": [1, 2], "labeler": "ann"}
    given = rankings_of_file(write_rows(tmp_path / "labels.jsonl", [*ROWS, bad]))
    assert [one.id for one in given.rankings] == ["k1", "k2"]
    assert any("rows that cannot be used: 1 (line 7" in note for note in given.notes), given.notes
    with pytest.raises(DataError, match="no rankings"):
        rankings_of_file(write_rows(tmp_path / "prompts-only.jsonl", ROWS[:1]))
    with pytest.raises(MissingError):
        rankings_of_file(tmp_path / "nowhere.jsonl")


def test_preferences_in_another_format(tmp_path: Path) -> None:
    pair = {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4 w5"}
    given = rankings_of_file(write_rows(tmp_path / "pairs.jsonl", [pair]))
    assert len(given.rankings) == 1
    assert sorted(one.text for one in given.responses.values()) == ["w3", "w4 w5"]


def project_with_rankings(folder: Path) -> Project:
    project = init_project(folder / "mine", base_model=str(write_base_model(folder / "base")))
    trained = [
        {"kind": "prompt", "id": "t", "text": "w20", "split": "train"},
        {"kind": "response", "id": "t1", "prompt_id": "t", "text": "w8"},
        {"kind": "response", "id": "t2", "prompt_id": "t", "text": "w11"},
        {"kind": "ranking", "id": "k0", "prompt_id": "t", "response_ids": ["t1", "t2"], "ranks": [1, 2], "labeler": "ann"},
    ]
    import_file("heedful", write_rows(folder / "rows.jsonl", [*ROWS, *trained]), project.data)
    return project


def test_a_projects_unseen_rankings(tmp_path: Path) -> None:
    project = project_with_rankings(tmp_path)
    given = rankings_of_project(project)
    assert [one.id for one in given.rankings] == ["k1", "k2"]
    assert [one.id for one in training_rankings_of(project, given).rankings] == ["k0"]
    empty = init_project(tmp_path / "empty", base_model=str(tmp_path / "base"))
    with pytest.raises(MissingError, match="no rankings of prompts"):
        rankings_of_project(empty)


def test_a_file_of_rankings_alone_uses_the_records_beside_it(tmp_path: Path) -> None:
    for kind in ("prompt", "response", "ranking"):
        rows = [{key: value for key, value in row.items() if key != "kind"} for row in ROWS if row["kind"] == kind]
        write_rows(tmp_path / f"{kind}s.jsonl", rows)
    given = rankings_of_file(tmp_path / "rankings.jsonl")
    assert [one.id for one in given.rankings] == ["k1", "k2"]
    assert given.responses["r1"].text == ANSWERS["r1"]


def test_rankings_of_the_labeling_database_count_once(tmp_path: Path) -> None:
    project = init_project(tmp_path / "mine", base_model="x")
    database = open_database(project.folder / "labels.sqlite")
    with database.write() as connection:
        who = add_person(connection, "labeler-1", group="held_out")
        add_ranking_tasks(connection, 1, phase="evaluation", outputs=3)
        connection.execute(update(prompt).values(split="test"))
        view = leases.claim(connection, who, now=0.0)
        assert view is not None
        answer = rank_answer([output.id for output in view.outputs])  # the first is best, the others are tied
        leases.submit(connection, view.id, who, token=view.token, answer=answer, seconds_spent=1.0, now=0.0)
    (stored,) = rankings_of_project(project).rankings
    with database.read() as connection:
        write_jsonl(tmp_path / "labels.jsonl", exported_records(connection))
    database.close()
    import_file("heedful", tmp_path / "labels.jsonl", project.data)
    assert [one.id for one in rankings_of_project(project).rankings] == [stored.id]


# ------------------------------------------------------------------------------------------- the verb


def test_evaluate_reward(tmp_path: Path, reward_model: Path) -> None:
    project = project_with_rankings(tmp_path)
    code, said = run(
        "evaluate", "reward", reward_model, "--project", project.folder, "--precision", "float32",
        "--json", tmp_path / "n.json", "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert code == 0, said
    scores = plain_scores(reward_model)
    expected = sum(scores[one] > scores[other] for one, other in (("r1", "r2"), ("r1", "r3"), ("r2", "r3"))) / 3
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert numbers["all_pairs"]["accuracy"]["two_way"]["value"] == pytest.approx(expected, abs=1e-5)
    assert (numbers["labeler_ties"], numbers["rankings"], numbers["labelers"]) == (1, 2, 2)
    assert numbers["all_pairs"]["longer_wins"]["two_way"]["value"] == pytest.approx(1 / 3, abs=1e-5)
    # w8 is in r1, w11 in r3: the first is liked, the second is not.
    assert numbers["all_pairs"]["bag_of_words"]["two_way"]["value"] == 1
    assert "the bag of words learned from 1 training pairs" in said
    assert "<svg" in (tmp_path / "page.html").read_text()
    shutil.copytree(reward_model, project.runs / "reward-1" / "model")
    (project.runs / "reward-1" / "stage.json").write_text('{"done": true}')
    of_project = ("evaluate", "reward", project.folder, "--project", project.folder, "--precision", "float32")
    code, again = run(*of_project, "--json", tmp_path / "again.json")
    assert code == 0, again
    assert json.loads((tmp_path / "again.json").read_text()) == numbers | {"model": "reward"}


def test_mistakes_exit_with_2(tmp_path: Path, reward_model: Path) -> None:
    labels = write_rows(tmp_path / "labels.jsonl", ROWS)
    project = project_with_rankings(tmp_path).folder
    policy = tmp_path / "base"
    for arguments, message in (
        ([reward_model], "there are no rankings to measure the reward model on"),
        ([policy, "--rankings", labels], "this is not a reward model"),
        ([reward_model, "--rankings", labels, "--max-response-tokens", "0"], "--max-response-tokens is too small"),
        ([tmp_path / "nowhere", "--rankings", labels], "there is no model here"),
        ([reward_model, "--rankings", tmp_path / "nowhere.jsonl"], "nowhere.jsonl"),
        ([reward_model, "--project", tmp_path], "no heedful.toml here"),
        ([project, "--project", project], "the project has not trained a reward model"),
    ):
        code, said = run("evaluate", "reward", *arguments)
        assert code == 2, said
        assert message in said
