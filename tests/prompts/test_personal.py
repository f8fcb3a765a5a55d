"""Personal data: what checks is found, what does not is not. Numbers are published examples, never anybody's own."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.quick import takes_less_than

from heedful.errors import ConfigError, MissingError
from heedful.prompts.personal import (
    Finding,
    check_region,
    find_personal_data,
    iban_is_valid,
    luhn_is_valid,
    names_finder,
)


def kinds(text: str, region: str = "US") -> list[tuple[str, str]]:
    return [(found.kind, text[found.start : found.end]) for found in find_personal_data(text, region=region)]


@pytest.mark.parametrize(
    ("text", "kind", "what"),
    [
        ("Write to ada.lovelace+x@mail.example.org, please.", "email", "ada.lovelace+x@mail.example.org"),
        ("<müller@bücher.example>", "email", "müller@bücher.example"),
        ("Call +49 30 901820 before noon.", "phone", "+49 30 901820"),
        ("My number is (202) 456-1414.", "phone", "(202) 456-1414"),
        # Payment networks' and processors' test numbers.
        ("Charge 4111 1111 1111 1111 today", "card", "4111 1111 1111 1111"),
        ("card: 5555-5555-5555-4444.", "card", "5555-5555-5555-4444"),
        ("378282246310005", "card", "378282246310005"),
        # Examples of the ISO 13616 registry.
        ("Pay to DE89 3704 0044 0532 0130 00 AND tell me", "iban", "DE89 3704 0044 0532 0130 00"),
        ("GB82WEST12345698765432", "iban", "GB82WEST12345698765432"),
        ("FR14 2004 1010 0505 0001 3M02 606 is ours", "iban", "FR14 2004 1010 0505 0001 3M02 606"),
        ("NO93 8601 1117 947", "iban", "NO93 8601 1117 947"),
        ("Why does 8.8.8.8 not answer?", "ip", "8.8.8.8"),
        ("ping 2001:4860:4860::8888 fails", "ip", "2001:4860:4860::8888"),
        ("ssn 078-05-1120", "ssn", "078-05-1120"),  # printed on a sample card of 1938
        ("key AKIAIOSFODNN7EXAMPLE in my shell", "key", "AKIAIOSFODNN7EXAMPLE"),  # from the vendor's documentation
        ("ghp_" + "a1B2" * 9, "key", "ghp_" + "a1B2" * 9),
        ("sk-proj-" + "Zx9" * 12, "key", "sk-proj-" + "Zx9" * 12),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE", "key", "-----BEGIN RSA PRIVATE KEY-----"),
    ],
)
def test_found(text: str, kind: str, what: str) -> None:
    assert kinds(text) == [(kind, what)]


@pytest.mark.parametrize(
    "text",
    [
        "What does @ mean in x @ y, or in user@host?",
        "4111 1111 1111 1112",  # Luhn fails
        "The ids 0000000000000000 and 1234567890123456 are placeholders.",
        "DE89 3704 0044 0532 0130 02",  # mod 97 fails
        "DE89 3704 0044 0532 0130",  # too short for its country
        "XX89370400440532013000",  # no such country
        "127.0.0.1, 192.168.1.20, 10.0.0.1 and ::1 are nobody's",
        "Version 1.2.3.4.5, 999.1.1.1",
        "At 12:30:45 the C++ call std::vector::size",
        "000-12-3456, 666-12-3456, 900-12-3456, 123-00-4567, 123-45-0000",
        "Between 1914-1918 and 1939-1945, 60,000,000 died.",
        "Solve 123456789 * 987654321 step by step.",
        "At home it is 555-1234, else +1 (555) 555-5555",  # no area's code, or one that no area has
        "Write a haiku about sk-iing",
    ],
)
def test_not_found(text: str) -> None:
    assert kinds(text) == []


def test_the_region_decides_what_a_number_without_country_is() -> None:
    assert kinds("Ruf 030 901820 an", region="DE") == [("phone", "030 901820")]
    assert kinds("Ruf 030 901820 an", region="US") == []
    with pytest.raises(ConfigError, match="region"):
        check_region("Germany")


def test_several_and_no_number_twice() -> None:
    text = "a@b.example, 4111 1111 1111 1111, DE89370400440532013000"
    assert [kind for kind, _ in kinds(text)] == ["email", "card", "iban"]
    # An IBAN (made up) whose account number also passes Luhn's check is one thing, not two.
    assert [kind for kind, _ in kinds("DE24 3704 0044 0532 0000 08")] == ["iban"]


def luhn_by_table(digits: str) -> bool:
    """The check as ISO/IEC 7812-1 annex B words it: double, add the digits of the products."""
    doubled = [d if i % 2 == 0 else sum(map(int, str(2 * d))) for i, d in enumerate(map(int, digits[::-1]))]
    return sum(doubled) % 10 == 0


@given(st.text(alphabet="0123456789", min_size=12, max_size=18))
def test_one_check_digit_of_ten_is_a_card_s(digits: str) -> None:
    valid = [digit for digit in "0123456789" if luhn_is_valid(digits + digit)]
    assert len(valid) == 1
    assert luhn_by_table(digits + valid[0])


@given(st.text(alphabet="0123456789", min_size=14, max_size=14), st.integers(1, 9))
def test_a_card_with_a_wrong_digit_is_not_found(digits: str, off: int) -> None:
    start = "4" + digits
    last = next(digit for digit in "0123456789" if luhn_is_valid(start + digit))
    wrong = str((int(last) + off) % 10)
    assert ("card", start + last) in kinds(f"pay {start + last} now")
    assert "card" not in [kind for kind, _ in kinds(f"pay {start + wrong} now")]


@given(st.text(alphabet="0123456789", min_size=18, max_size=18), st.integers(1, 96))
def test_ibans_by_their_check_digits(account: str, off: int) -> None:
    check = 98 - int(account + "131400") % 97  # ISO 13616: D is 13, E is 14
    assert iban_is_valid(f"DE{check:02d}{account}")
    other = (check - 2 + off) % 97 + 2
    assert not iban_is_valid(f"DE{other:02d}{account}")
    assert ("iban", f"DE{check:02d}{account}") in kinds(f"to DE{check:02d}{account}.")
    assert "iban" not in [kind for kind, _ in kinds(f"to DE{other:02d}{account}.")]


def test_names_need_presidio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingError, match=r"heedful\[names\]"):
        names_finder()


def test_names_are_found_by_what_presidio_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our side of the interface only: a stand-in answers as presidio_analyzer.AnalyzerEngine.analyze does."""

    class AnalyzerEngine:
        def analyze(self, *, text: str, entities: list[str], language: str, score_threshold: float) -> list[SimpleNamespace]:
            assert (entities, language) == (["PERSON"], "en")
            start = text.index("Ada")
            return [SimpleNamespace(start=start, end=start + 3)]

    module = ModuleType("presidio_analyzer")
    module.AnalyzerEngine = AnalyzerEngine  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "presidio_analyzer", module)
    assert find_personal_data("Dear Ada, hello", more=names_finder()) == [Finding("name", 5, 8)]


PIECES = (
    *("a:", "1:", ":", "f", "a.", "a@a.", "aa@", "1 ", "1-", "1.", "1(", "(", "GB82", "::1 ", "8.8.8.8 ", "a@b.example "),
    *("sk-", "sk-a-", "-eyJaaaaaaaa", "eyJaaaaaaaa.", "xoxb-", "hf_", "github_pat_", "-----BEGIN A"),
)


@pytest.mark.parametrize("piece", PIECES)
def test_the_time_grows_with_the_length_and_not_with_its_square(piece: str) -> None:
    """A long text that was made to be slow: a square would take minutes."""
    text = "x " + piece * (2**18 // len(piece)) + "zz"
    takes_less_than(6, lambda: find_personal_data(text))
