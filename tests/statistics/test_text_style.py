"""Markup in responses, by hand; style control against statsmodels and on simulated votes that only style decides."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from heedful.statistics import bradley_terry, style_difference
from heedful.statistics.text_style import TextStyle, text_style

ALL = """# Title
## Part

Some **bold** text, __also bold__, and 2 * 3 * 4 = 24.

- one
  * two
+ three
1. first
  12. twelfth

```python
# no header
- no item
**not bold**
```

####### seven are none
#no space
"""


@pytest.mark.parametrize(
    ("text", "style"),
    [
        ("", TextStyle(0, 0, 0, 0)),
        ("Plain text.", TextStyle(0, 0, 0, 0)),
        (ALL, TextStyle(5, 2, 2, 1)),
        ("```\nx\n```\ntext\n```\n- y", TextStyle(0, 0, 0, 2)),
        ("text\n\n\n  - a\n\t1. b", TextStyle(2, 0, 0, 0)),
        ("**a** and **b\nc, __d_, ****", TextStyle(0, 0, 1, 0)),
        ("1 - 2\n-3\n3.5", TextStyle(0, 0, 0, 0)),
    ],
)
def test_counts(text: str, style: TextStyle) -> None:
    assert text_style(text) == style


def test_differences_are_chatbot_arenas() -> None:
    """By hand: (3 - 1) / 5, (0 - 0) / 1, (1 - 3) / 5 over sqrt((0.16 + 0 + 0.16) / 3). Their mean is 0, as Arena makes it."""
    spread = np.sqrt(0.32 / 3)
    assert style_difference([3, 0, 1], [1, 0, 3]) == pytest.approx([0.4 / spread, 0, -0.4 / spread])
    share = np.array([0.4, 0.0, -0.4])
    assert style_difference([3, 0, 1], [1, 0, 3]) == pytest.approx((share - share.mean()) / share.std())
    assert style_difference([2, 5], [2, 5]).tolist() == [0, 0]
    assert style_difference([], []).tolist() == []
    generator = np.random.default_rng(0)
    first, second = generator.poisson(3, 50), generator.poisson(5, 50)
    assert style_difference(second, first) == pytest.approx(-style_difference(first, second))


def test_style_that_explains_the_whole_preference() -> None:
    """Three equally good models: one writes lists, one bold text. Voters look at nothing but lists and bold text."""
    generator = np.random.default_rng(11)
    count = 6000
    first = generator.integers(3, size=count)
    second = (first + generator.integers(1, 3, size=count)) % 3
    rates = {"lists": np.array([8.0, 2.0, 2.0]), "bold": np.array([1.0, 6.0, 1.0]), "headers": np.array([2.0, 2.0, 2.0])}
    covariates = {
        name: style_difference(generator.poisson(rate[first]), generator.poisson(rate[second])) for name, rate in rates.items()
    }
    likes = 1.2 * covariates["lists"] + 0.6 * covariates["bold"]
    outcome = (likes + generator.logistic(size=count) > 0).astype(float)
    names = np.array(["lister", "shouter", "plain"])
    prompts, labelers = np.arange(count) // 2, generator.integers(40, size=count)
    columns = (names[first].tolist(), names[second].tolist(), outcome.tolist(), prompts.tolist(), labelers.tolist())

    plain = bradley_terry(*columns)
    assert list(plain.scores) == ["lister", "shouter", "plain"]
    assert plain.difference("lister", "plain").low > 0.8
    assert plain.difference("shouter", "plain").low > 0.3

    controlled = bradley_terry(*columns, covariates=covariates)
    for model, other in (("lister", "plain"), ("shouter", "plain"), ("lister", "shouter")):
        apart = controlled.difference(model, other)
        assert apart.low < 0 < apart.high
        assert abs(apart.value) < 0.2
    assert controlled.effects["lists"].value == pytest.approx(1.2, abs=0.12)
    assert controlled.effects["bold"].value == pytest.approx(0.6, abs=0.12)
    assert controlled.effects["headers"].low < 0 < controlled.effects["headers"].high

    design = np.stack([(first == i).astype(float) - (second == i) for i in (0, 1)], axis=1)
    theirs = sm.GLM(outcome, np.column_stack([design, *covariates.values()]), family=sm.families.Binomial()).fit(tol=1e-14)
    assert [effect.value for effect in controlled.effects.values()] == pytest.approx(theirs.params[2:], abs=1e-7)
    assert controlled.difference("lister", "plain").value == pytest.approx(theirs.params[0], abs=1e-7)
