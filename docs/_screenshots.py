"""Pictures of the labeling application for the documentation: ``make screenshots``.

A server of its own over a database of invented people, prompts and answers; Chromium takes the pictures.
"""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from sqlalchemy import Connection, select, update

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.console_database import build  # noqa: E402
from tests.web.fake_models import FakeModels  # noqa: E402
from tests.web.served import served  # noqa: E402

from heedful.conversation import turns_of  # noqa: E402
from heedful.labeling.database.connection import Database, open_database  # noqa: E402
from heedful.labeling.database.tables import person, prompt, response  # noqa: E402
from heedful.labeling.people import accounts, instruction_versions, sessions  # noqa: E402
from heedful.labeling.queue import items, leases  # noqa: E402
from heedful.labeling.usage import admission, api_keys, blind_votes, conversations  # noqa: E402
from heedful.labeling.usage.conversations import NewConversation  # noqa: E402
from heedful.records import Prompt, Response  # noqa: E402

FOLDER = Path(__file__).parent / "_static" / "screenshots"
WIDTH, HEIGHT = 1366, 768
MOST_BYTES = 150_000
ADMIN, RESEARCHER, LABELER = 1, 2, 4
# fmt: off
NAMES = [
    "Ada Okafor", "Rex Lindqvist", "Mina Sato", "Olga Novak", "Sam Hill",
    "Priya Nair", "Jonas Weber", "Leila Haddad", "Tom Baker", "Ines Costa",
    "Yusuf Demir", "Clara Rossi", "Ben Adams", "Nadia Petrova", "Luis Ortega",
    "Emma Virtanen", "Kofi Mensah", "Hana Kim", "Pavel Dvorak", "Sofia Andersson",
]
# fmt: on
PROMPTS = (
    "Explain to a ten-year-old why the sky is blue.",
    "Write a short poem about a lighthouse keeper who is afraid of the sea.",
    "Summarize this for a second-grade student: Jupiter is the fifth planet from the Sun and the largest in the Solar System.",
    "List five ideas for a rainy afternoon with two small children.",
    "Rewrite this so that it sounds friendlier: Your order is late because you gave us the wrong address.",
    "Extract the names of all cities from: We drove from Lyon through Geneva to Milan.",
    "Is this review positive or negative? “The soup was cold, but the waiter saved the evening.”",
    "What should I check before I buy a used bicycle?",
    "Translate into French: The meeting was moved to Thursday at three.",
    "Give me three titles for a talk about bees in the city.",
    "You are a patient librarian. Reader: I liked “Emma”. What should I read next? Librarian:",
    "How do vaccines work? Answer in two sentences.",
)
SKY = (
    "Sunlight looks white, but it is made of all colors. Air scatters the blue part the most, in every direction, so wherever "
    "you look up, some blue light comes to your eyes.",
    "The sky is blue because it reflects the ocean.",
    "Imagine sunlight as a bag of marbles of all colors. When they roll into the air, the blue ones bounce around the most. "
    "They bounce into your eyes from everywhere, so the sky looks blue!",
    "It is blue due to Rayleigh scattering, whose intensity goes with the inverse fourth power of the wavelength.",
    "Because blue light is bent the most by the tiny bits of air. At sunset the light comes a longer way, the blue is gone by "
    "then, and you see the red.",
    "Good question! Ask your teacher.",
    "The sky is blue. It has always been blue. Many things are blue, such as the sky.",
)
JUDGED = ((6, 2), (2, 4), (7, 1), (4, 3), (6, 2), (1, 5), (1, 5))
"""Overall quality and group of each."""
DEMONSTRATION = (
    "Sunlight looks white, but it is a mix of all the colors of the rainbow. When it meets the air, the tiny bits of air "
    "bounce the blue light around much more than the red.\n\nSo blue light reaches your eyes from every side of the sky, "
    "and the whole sky looks blue."
)


def main() -> None:
    """Make every picture, in a folder that is thrown away but for them."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise SystemExit("Chromium is not installed (Debian, Ubuntu: apt install chromium)")
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        build(f"{folder}/labels.sqlite", num_prompts=400, num_tasks=2_000)
        database = open_database(f"{folder}/labels.sqlite")
        with database.write() as connection:
            _in_plain_words(connection)
        ranking, demonstration = _work(database)
        conversation, key = _talk(database)
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        models = served(FakeModels().app)
        command = [
            sys.executable,
            "-m",
            "heedful.cli",
            "web",
            folder,
            "--port",
            str(port),
            "--model-server",
            models.__enter__(),
        ]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(f"{url}/health")
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])

                def picture(name: str, who: int, path: str, do: Callable[[Any], None] | None = None) -> None:
                    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
                    with database.write() as connection:
                        token = sessions.start(connection, who).token
                    context.add_cookies([{"name": "heedful_session", "value": token, "url": url}])
                    page = context.new_page()
                    page.goto(url + path)
                    if do is not None:
                        do(page)
                    page.wait_for_timeout(300)
                    _keep(name, page.screenshot(animations="disabled"))
                    context.close()

                picture("home", LABELER, "/")
                picture("demonstration", LABELER, f"/tasks/{demonstration}", _write)
                picture("ranking", LABELER, f"/tasks/{ranking}", _rank)
                picture("order", LABELER, f"/tasks/{ranking}", _show_order)
                picture("console", RESEARCHER, "/console")
                picture("agreement", RESEARCHER, "/console/agreement")
                picture("explorer", RESEARCHER, "/console/data?kind=ranking")
                picture("people", ADMIN, "/admin/people")
                picture("playground", LABELER, f"/playground/{conversation}")
                picture("api_key", LABELER, f"/keys/{key}")
                browser.close()
        finally:
            server.terminate()
            server.wait()
            models.__exit__(None, None, None)
            database.close()
    _up(chromium)


def _up(chromium: str) -> None:
    """What a newcomer sees after `heedful up` without a project: the models that ship, compared blind."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "heedful.cli", "up", "--port", "0"]
        server = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None
            link = next(line.split()[-1] for line in server.stderr if line.startswith("join as"))
            url = link.partition("/join/")[0]
            _wait(f"{url}/health")
            with sync_playwright() as driver:
                browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
                page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
                page.goto(link)
                fields = ("Your name", NAMES[0]), ("E-mail address", "ada@example.org"), ("Password", "three plain words")
                for label, value in fields:
                    page.get_by_label(label, exact=True).fill(value)
                page.get_by_label("Repeat the password").fill("three plain words")
                page.get_by_role("button", name="Join").click()
                page.get_by_role("link", name="Work").click()
                page.get_by_role("link", name="Playground").click()
                page.get_by_label("Two or more models, blind").check()
                page.get_by_label("Your message or text").fill("Does Ben like the bird? Ben saw a bird at the well. He smiled.")
                page.get_by_role("button", name="Send").click()
                page.locator("button[value=tie]:not([disabled])").wait_for()
                page.wait_for_timeout(300)
                page.evaluate("scrollTo(0, 0)")
                _keep("up", page.screenshot(animations="disabled"))
                browser.close()
        finally:
            server.terminate()
            server.wait()


def _in_plain_words(connection: Connection) -> None:
    """What the bulk of random words says, said in sentences; people with names."""
    draw = random.Random(0)
    for row in connection.execute(select(prompt.c.id)).all():
        connection.execute(update(prompt).where(prompt.c.id == row.id).values(text=draw.choice(PROMPTS)))
    for row in connection.execute(select(response.c.id)).all():
        connection.execute(update(response).where(response.c.id == row.id).values(text=draw.choice(SKY)))
    for row in connection.execute(select(person.c.id)).all():
        name = NAMES[(row.id - 1) % len(NAMES)]
        if row.id > len(NAMES):
            name = f"{name.split()[0]} {NAMES[(row.id * 7) % len(NAMES)].split()[1]}"
        email = f"{name.lower().replace(' ', '.')}{'' if row.id <= len(NAMES) else row.id}@example.org"
        connection.execute(update(person).where(person.c.id == row.id).values(name=name, email=email))


def _work(database: Database) -> tuple[int, int]:
    """Two tasks that a labeler is working on: ids of their assignments."""
    found: list[int] = []
    with database.write() as connection:
        items.add_prompts(connection, [Prompt(id="sky", turns=turns_of(PROMPTS[0]), use_case="open_qa", language="en")])
        ids = [f"sky-{place}" for place in range(len(SKY))]
        items.add_responses(
            connection, [Response(id=id, prompt_id="sky", text=text, model="m") for id, text in zip(ids, SKY, strict=True)]
        )
        for kind, name, outputs in (("rank", "Comparisons, week 12", ids), ("demonstrate", "Open questions, week 12", [])):
            made = items.make_batch(connection, name=name, kind=kind, phase="training", overlap=1)  # type: ignore[arg-type]
            items.add_tasks(connection, made, [items.NewTask(prompt_id="sky", response_ids=outputs)])
            view = leases.claim(connection, LABELER, kind=kind, batch_id=made)  # type: ignore[arg-type]
            assert view is not None
            found.append(view.id)
            current = instruction_versions.current(connection, kind, "training")  # type: ignore[arg-type]
            assert current is not None
            instruction_versions.acknowledge(connection, LABELER, current.id)
        accounts.invite_to_join(connection, role="labeler", group="training", created_by=ADMIN)
    return found[0], found[1]


def _talk(database: Database) -> tuple[int, int]:
    """A blind comparison after its vote, and a key that was used: their numbers."""
    models = ("acme/alpha-7b", "acme/beta-2")
    with database.write() as connection:
        new = NewConversation(layout="compare", models=models, use_case="open_qa", training=True)
        number = conversations.start(connection, LABELER, new)
        turn = conversations.add_turn(connection, number, LABELER, PROMPTS[0], training=True)
        for answer, text in zip(conversations.own(connection, number, LABELER).turns[0].answers, SKY[2:4], strict=True):
            ask = conversations.begin_answer(connection, answer.id, LABELER)
            conversations.end_answer(connection, ask, text, state="finished", finish_reason="stop")
        blind_votes.vote(connection, turn, LABELER, choice="answer", position=0)
        wanted = api_keys.NewKey(person_id=LABELER, name="Notebook", uses=("research",), per_day=1_000, keep_days=90)
        key, secret = api_keys.make(connection, wanted, by=ADMIN)
    for prompt_text in PROMPTS[:5]:
        admitted = admission.admit(database, secret, "chat")
        asked = [{"role": "user", "content": prompt_text}]
        outcome = admission.Outcome(
            status=200, model=models[0], prompt_tokens=14, completion_tokens=52, request=asked, response=[SKY[0]]
        )
        admission.finish(database, admitted, outcome)
    return number, key


def _write(page: Any) -> None:
    page.get_by_label("Your demonstration").fill(DEMONSTRATION)
    _saved(page)


def _rank(page: Any) -> None:
    for box in page.locator("[data-output]").all():
        letter = box.get_attribute("data-output")
        rating, place = JUDGED[SKY.index(box.text_content())]
        page.locator(f"input[name='{letter}.overall'][value='{rating}']").check(force=True)
        page.locator(f"select[name='{letter}.group']").select_option(str(place))
    _saved(page)
    page.evaluate("document.querySelector('.outputs').scrollTo(0, 0)")


def _show_order(page: Any) -> None:
    page.locator(".board-card").nth(2).focus()


def _saved(page: Any) -> None:
    page.wait_for_function("() => document.getElementById('saved').dataset.state === 'saved'")


def _keep(name: str, png: bytes) -> None:
    """Colors of a palette: a third of the size, and nobody sees it."""
    picture = Image.open(BytesIO(png)).convert("RGB").quantize(128)
    file = FOLDER / f"{name}.png"
    picture.save(file, optimize=True)
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)}: {size // 1000} kB")
    if size > MOST_BYTES:
        raise SystemExit(f"{file} is too large: {size} bytes")


def _wait(url: str) -> None:
    for _ in range(300):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.2)
    raise SystemExit("the server does not answer")


if __name__ == "__main__":
    main()
