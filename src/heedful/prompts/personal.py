"""Find personal data in a text by patterns and checks (SPEC 1.2): checksums, number plans, address ranges.

It finds email addresses, phone numbers (by phonenumbers), payment cards (Luhn), IBANs (ISO 13616: length by country, mod 97),
public IP addresses, numbers like US social security numbers, keys and tokens of services. It does not find names and postal
addresses. Presidio finds names (``names_finder``; the extra ``names``). The paper says only that PII was filtered; the patterns
are ours.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from heedful.conversation import Turn
from heedful.errors import ConfigError, MissingError

Kind = Literal["email", "phone", "card", "iban", "ip", "ssn", "key", "name"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Personal data at ``text[start:end]``."""

    kind: Kind
    start: int
    end: int


Finder = Callable[[str], Sequence[Finding]]

_EMAIL = re.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?![\w-])")
_CARD = re.compile(r"(?<![\w-])(?:\d[ -]?){12,18}\d(?![\w-])")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ -]?[A-Za-z0-9]){11,30}")
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:.]*+(?<=[0-9A-Fa-f:.])(?![\w:])")
_LONGEST_IP = len("ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")
_SSN = re.compile(r"(?<![\w-])(\d{3})([- ])(\d{2})\2(\d{4})(?![\w-])")
_KEY = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        (?:AKIA|ASIA)[0-9A-Z]{16}                         # Amazon Web Services
      | AIza[0-9A-Za-z_-]{35}                             # Google
      | sk-(?:[A-Za-z]{1,20}-){0,4}[A-Za-z0-9_]{20,}               # OpenAI, Anthropic and others
      | [sr]k_(?:live|test)_[0-9A-Za-z]{16,}              # Stripe
      | gh[pousr]_[0-9A-Za-z]{36,} | github_pat_[0-9A-Za-z_]{40,}
      | glpat-[0-9A-Za-z_-]{20,}                          # GitLab
      | hf_[A-Za-z0-9]{30,}                               # Hugging Face
      | xox[abeoprs]-[0-9A-Za-z-]{10,}                    # Slack
      | (?<![_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}   # a JSON Web Token
    )(?![A-Za-z0-9]) | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----""",
    re.VERBOSE,
)
_SEVEN_DIGITS = re.compile(r"\d(?:[ \t().\-/+]{0,3}\d){6}")

# Length of an IBAN by country (the registry of ISO 13616).
_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FO FI GL NL SD FK",
        19: "MK SI",
        20: "AT BA EE KZ XK LT LU MN",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}


def find_personal_data(text: str, *, region: str = "US", more: Finder | None = None) -> list[Finding]:
    """Everything found, by position. What one pattern has matched, no later pattern matches again.

    region: the country (ISO 3166) whose phone numbers may lack the country code. more: another finder to use as well.
    """
    findings: list[Finding] = []
    covered = bytearray(len(text))
    finders: list[Iterable[Finding]] = [_matches("email", _EMAIL, text)] if "@" in text else []
    finders.append(_matches("key", _KEY, text))
    if any(map(str.isdigit, text)):
        finders += [_ibans(text), _cards(text), _ips(text), _ssns(text), _phones(text, region)]
    elif "::" in text:
        finders.append(_ips(text))
    for finder in finders:
        found = [one for one in finder if not any(covered[one.start : one.end])]
        for one in found:
            covered[one.start : one.end] = b"\1" * (one.end - one.start)
        findings += found
    if more is not None:
        findings += more(text)
    return sorted(findings, key=lambda one: (one.start, one.end, one.kind))


def personal_data_in(turns: Sequence[Turn], *, region: str = "US", more: Finder | None = None) -> tuple[Kind, ...]:
    """The kinds of personal data in any of the turns, in alphabetical order."""
    return tuple(sorted({one.kind for turn in turns for one in find_personal_data(turn.text, region=region, more=more)}))


def check_region(region: str) -> None:
    """Raise ConfigError if phonenumbers does not know the country ``region``."""
    import phonenumbers

    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ConfigError(
            "unknown region for phone numbers",
            expected="a country's two capital letters, for example US or DE",
            got=repr(region),
        )


def luhn_is_valid(digits: str) -> bool:
    """The check of payment cards (ISO/IEC 7812): every second digit from the right doubled, the sum divisible by 10."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def iban_is_valid(iban: str) -> bool:
    """The check of ISO 13616: the country's length; the first four moved to the end, letters as 10..35, mod 97 is 1."""
    if not (iban.isascii() and iban.isalnum()) or len(iban) != _IBAN_LENGTHS.get(iban[:2].upper()):
        return False
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _matches(kind: Kind, pattern: re.Pattern[str], text: str) -> Iterator[Finding]:
    return (Finding(kind, *match.span()) for match in pattern.finditer(text))


def _overlap(first: Finding, second: Finding) -> bool:
    return first.start < second.end and second.start < first.end


def _cards(text: str) -> Iterator[Finding]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match[0])
        # Issuers of payment cards start with 2 to 6 (ISO/IEC 7812); all digits alike is a placeholder.
        if digits[0] in "23456" and len(set(digits)) > 1 and luhn_is_valid(digits):
            yield Finding("card", *match.span())


def _ibans(text: str) -> Iterator[Finding]:
    for match in _IBAN.finditer(text):
        length = _IBAN_LENGTHS.get(match[0][:2].upper(), 0)
        places = [i for i, character in enumerate(match[0]) if character.isalnum()][:length]
        if length and len(places) == length and iban_is_valid("".join(match[0][i] for i in places)):
            end = match.start() + places[-1] + 1
            if not text[end : end + 1].isalnum():
                yield Finding("iban", match.start(), end)


def _ips(text: str) -> Iterator[Finding]:
    """Only public addresses: 127.0.0.1 and 192.168.0.1 identify no one."""
    for match in chain(_IPV4.finditer(text), _IPV6.finditer(text)):
        written = match[0].rstrip(".")
        if len(written) > _LONGEST_IP or (match.re is _IPV6 and written.count(":") < 2):
            continue
        try:
            address = ipaddress.ip_address(written)
        except ValueError:
            continue
        if address.is_global and (address.version == 4 or ":" in written.strip(":")):
            yield Finding("ip", match.start(), match.start() + len(written))


def _ssns(text: str) -> Iterator[Finding]:
    """Areas 000, 666 and 900 to 999, group 00 and serial 0000 were never given out."""
    for match in _SSN.finditer(text):
        area, group, serial = match[1], match[3], match[4]
        if area not in ("000", "666") and area < "900" and group != "00" and serial != "0000":
            yield Finding("ssn", *match.span())


def _phones(text: str, region: str) -> Iterator[Finding]:
    if _SEVEN_DIGITS.search(text) is None:
        return
    import phonenumbers

    for match in phonenumbers.PhoneNumberMatcher(text, region):
        yield Finding("phone", match.start, match.end)


def names_finder(language: str = "en", threshold: float = 0.6) -> Finder:
    """A finder of people's names: Presidio with its default spaCy model. Raises MissingError if it is not installed."""
    try:
        import presidio_analyzer  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise MissingError(
            "names are found by Presidio, which is not installed",
            expected="the extra names, and a spaCy model",
            got="no module presidio_analyzer",
            next_step="pip install 'heedful[names]' and python -m spacy download en_core_web_lg",
        ) from None
    engine: Any = presidio_analyzer.AnalyzerEngine()

    def find(text: str) -> list[Finding]:
        found = engine.analyze(text=text, entities=["PERSON"], language=language, score_threshold=threshold)
        return [Finding("name", one.start, one.end) for one in found]

    return find
