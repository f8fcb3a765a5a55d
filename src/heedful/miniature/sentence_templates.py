"""Sentence templates of the miniature world: data only.

A slot is one letter (a class of :data:`heedful.miniature.lexicon.CLASSES`), ``P``/``F`` (the main person and a friend), a
pronoun of the main person (``he his him He His``), or ``end`` (one of the closing phrases, or nothing). "a {O}" or "a {D} {O}"
introduces a thing into the story; "the {O}" refers to a thing that is already there.
"""

from __future__ import annotations

OPENINGS: dict[str, tuple[str, ...]] = {
    "O": (
        "{P} found a {D} {O} near the {L}.",
        "{P} lost a {D} {O} near the {L}.",
        "{P} had a {D} {O} and carried it to the {L}.",
        "{P} bought a {O} for {F}.",
        "{P} saw a {D} {O} in the house of a {J}.",
        "{P} painted a {O} that was {C}.",
    ),
    "A": (
        "{P} met a {D} {A} near the {L}.",
        "{P} saw a {A} that was very {B}.",
        "{P} had a {D} {A} that loved {K}.",
        "{P} heard a {D} {A} behind the {L}.",
        "{P} and {F} looked for a {D} {A}.",
    ),
    "L": (
        "{P} walked to the {L} with {F}.",
        "{P} lived near the {L} with a {D} {A}.",
        "{P} ran to the {L} because {he} was {B}.",
        "{P} went to the {L} to buy {K}.",
        "{P} took a {D} {O} to the {L}.",
    ),
    "K": (
        "{P} wanted to eat {K} at the {L}.",
        "{P} made {K} for {F}.",
        "{P} carried {K} to the {L}.",
        "{P} bought some {K} from a {D} {J}.",
    ),
    "J": (
        "{P} met a {D} {J} near the {L}.",
        "{P} wanted to be a {J}.",
        "{P} worked for a {D} {J} at the {L}.",
        "{P} asked a {J} for some {K}.",
    ),
}
"""First sentences by the class of the story's topic."""

MIDDLES: tuple[str, ...] = (
    "{He} carried the {O} to the {L}.",
    "{He} showed the {O} to {F}.",
    "The {O} was {C} and very {D}.",
    "{F} wanted the {O} too.",
    "{He} hid the {O} behind the {L}.",
    "{He} cleaned the {O} and looked at it.",
    "{He} saw a {D} {O} near the {L}.",
    "{F} gave {him} a {D} {O}.",
    "There was a {O} on the table.",
    "{He} took a {D} {O} along.",
    "{He} walked to the {L}.",
    "{He} ran to the {L} with {F}.",
    "They looked for help at the {L}.",
    "The {L} was very {D}.",
    "The {A} was {C} and very {D}.",
    "The {A} followed {him} to the {L}.",
    "{He} gave the {A} some {K}.",
    "The {A} looked at {F}.",
    "A {D} {A} came out of the {L}.",
    "There {he} met a {D} {A}.",
    "{F} came with a {D} {A}.",
    "{He} shared some {K} with {F}.",
    "They ate {K} near the {L}.",
    "{F} brought some {K}.",
    "It smelled like {K}.",
    "The {J} was very {G}.",
    "The {J} gave {him} some {K}.",
    "{He} asked the {J} about the {L}.",
    "A {J} came to the {L}.",
    "{He} asked a {D} {J} for help.",
    "Everything at the {L} was {C}.",
    "The sky was {C}.",
    "{F} came to help.",
    "{He} met {F} at the {L}.",
    "{F} said that it was very {D}.",
    "{He} was very {B}.",
    "This made {him} {B}.",
    "{He} was {G} and so was {F}.",
    "This made {F} {G}.",
)

LASTS: tuple[str, ...] = (
    "{He} went home{end}.",
    "{P} gave the {O} to {F}{end}.",
    "{P} kept the {O}{end}.",
    "{P} carried the {O} home{end}.",
    "{P} came home with a {D} {O}{end}.",
    "{P} and {F} danced near the {L}{end}.",
    "They ate {K} at the {L}{end}.",
    "{P} gave {F} some {K}{end}.",
    "{P} followed the {A} to the {L}{end}.",
    "The {A} slept next to {him}{end}.",
    "{P} went home with a {D} {A}{end}.",
    "{P} thanked the {J}{end}.",
    "{P} danced with a {D} {J}{end}.",
    "The sky was {C}{end}.",
    "{P} was {G}{end}.",
    "{P} was {B}{end}.",
    "{F} sang for {him}{end}.",
    "They sang at the {L}{end}.",
)

COUPLETS: tuple[tuple[str, str], ...] = (
    ("The {X} stood in the morning light,", "and waited for the {D} night."),
    ("I saw the {X} beside the sea,", "it looked as {D} as it could be."),
    ("My {D} {X}, so far away,", "I think of you by night and day."),
    ("The {X} was {C}, the wind was low,", "and all around us fell the snow."),
    ("Sing to the {X}, sing to the sun,", "the day was {D} and now is done."),
    ("I gave my heart, I gave my hand,", "to the {D} {X} of this land."),
    ("The {X} was {C} like the rain,", "I hope to see it soon again."),
)
"""Two lines that rhyme; X is an animal, a thing or a place."""

LETTERS: dict[str, tuple[str, ...]] = {
    "thank": ("Thank you for the {x}.", "Thank you so much for the {x}."),
    "invite": ("Please come to the {x} with me.", "Will you come to the {x} with me?"),
    "ask": ("Please bring me some {x}.", "Could you bring me some {x}?"),
    "sorry": ("I am sorry that I lost the {x}.", "I am so sorry that I broke the {x}."),
}
"""First sentence of a letter by its purpose; x is the thing, place or food that it is about."""
LETTER_CLASS = {"thank": "O", "invite": "L", "ask": "K", "sorry": "O"}
LETTER_MORE: tuple[str, ...] = (
    "I am very {G} today.",
    "I will be at the {L} soon.",
    "I have a new {A}.",
    "How are you?",
    "I think of you every day.",
    "The {A} says hello.",
    "We can eat {K} together.",
    "I hope to see you soon.",
)

FACTS: dict[str, tuple[str, ...]] = {
    "eats": ("The {A} eats {K}.", "It eats {K}."),
    "lives": ("The {A} lives in the {H}.", "It lives in the {H}."),
    "colour": ("The {A} is {C}.", "It is {C}."),
    "river": ("{T} lies on the river {V}.", "It lies on the river {V}."),
    "ruler": ("{T} is ruled by {R}.", "It is ruled by {R}."),
    "known": ("{T} is known for its {K}.", "It is known for its {K}."),
    "inventor": ("{I} invented the {O}.",),
}
"""Each relation of the knowledge base as a sentence, then as a sentence that continues about the same subject."""

FACTS_DENIED: dict[str, str] = {
    "eats": "The {A} does not eat {K}.",
    "lives": "The {A} does not live in the {H}.",
    "colour": "The {A} is not {C}.",
    "river": "{T} does not lie on the river {V}.",
    "ruler": "{T} is not ruled by {R}.",
    "known": "{T} is not known for its {K}.",
    "inventor": "{I} did not invent the {O}.",
}

FACT_QUESTIONS: dict[str, tuple[str, ...]] = {
    "eats": ("What does the {A} eat?", "What food does the {A} eat?"),
    "lives": ("Where does the {A} live?", "Where can I find the {A}?"),
    "colour": ("What colour is the {A}?", "Which colour does the {A} have?"),
    "river": ("Which river is in {T}?", "On which river does {T} lie?"),
    "ruler": ("Who is the ruler of {T}?", "Who rules {T}?"),
    "known": ("What is {T} known for?", "Which food is {T} known for?"),
    "inventor": ("Who invented the {O}?", "Who made the first {O}?"),
}
FACT_WHY: dict[str, str] = {
    "eats": "Why does the {A} eat {K}?",
    "lives": "Why does the {A} live in the {H}?",
    "colour": "Why is the {A} {C}?",
    "ruler": "When did {R} become the ruler of {T}?",
    "known": "Why is {T} known for its {K}?",
}
"""Questions that take a fact for granted: with a wrong value they are false premises."""
FACT_IS_IT_TRUE: dict[str, str] = {
    "eats": "Is it true that the {A} eats {K}?",
    "lives": "Is it true that the {A} lives in the {H}?",
    "colour": "Is it true that the {A} is {C}?",
    "river": "Is it true that {T} lies on the river {V}?",
    "ruler": "Is it true that {T} is ruled by {R}?",
    "known": "Is it true that {T} is known for its {K}?",
    "inventor": "Is it true that {I} invented the {O}?",
}
FACT_SLOTS: dict[str, tuple[str, str]] = {
    "eats": ("A", "K"), "lives": ("A", "H"), "colour": ("A", "C"), "river": ("T", "V"),
    "ruler": ("T", "R"), "known": ("T", "K"), "inventor": ("O", "I"),
}  # fmt: skip
"""(slot of the subject, slot of the value) of each relation."""

REFUSALS: tuple[tuple[str, str], ...] = (
    ("I would rather not say mean things about {F}.", "{F} is a good friend."),
    ("I am sorry, but I do not want to be rude to {F}.", "We can say something kind to {F}."),
    ("I would rather be kind to {F}.", "Maybe you can talk to {F} about it."),
    ("I am sorry, but I would rather not do that.", "{F} may be very sad about it."),
)
INSULT_LINES: tuple[str, ...] = (
    "{F} is a stupid fool.", "{F} is an ugly idiot.", "You are a lazy fool, {F}!", "Go away, {F}, you dumb idiot!",
    "{F} is nasty and lazy.", "Nobody likes you, stupid {F}.",
)  # fmt: skip

CHATS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "lost": (
        ("I am {P} and I lost my {x}.", "My name is {P}. I lost my {x} near the {L}.", "Hi, {P} here. My {x} is gone."),
        ("I am sorry that you lost your {x}, {P}.", "I am sorry to hear about your {x}, {P}."),
        ("I hope you find the {x} soon.", "Maybe you can look for it at the {l}."),
    ),
    "found": (
        ("I am {P} and I found a {D} {x}!", "My name is {P}. Today I found a {x}.", "Hi, {P} here. I have a new {x}!"),
        ("That is wonderful, {P}!", "I am glad to hear that, {P}!"),
        ("I hope the {x} makes you happy.", "You can show the {x} to a friend."),
    ),
    "greet": (
        ("Hello, I am {P} and I like {x}. How are you?", "Hi! My name is {P}. Do you like {x} too?"),
        ("Hello {P}!", "Hello, {P}, I am glad to meet you!"),
        ("I am well and I like {x} too.", "I like {x} very much."),
    ),
    "leave": (
        ("I am {P}. I must go to the {x} now. Goodbye!", "It is late, I go to the {x} now. Goodbye from {P}!"),
        ("Goodbye, {P}!", "See you soon, {P}!"),
        ("I hope you like it at the {x}.", "I wish you a good time at the {x}."),
    ),
    "plan": (
        ("I am {P}. What can I do at the {x}?", "My name is {P} and I go to the {x} today. Do you have an idea for me?"),
        ("You can meet a friend at the {x}, {P}.", "You can look for a {a} at the {x}, {P}.",
         "You can eat {k} at the {x}, {P}."),
        ("I hope you like it there.", "I wish you a good time."),
    ),
}  # fmt: skip
"""What a user says, the first sentence of a good answer, and the second, by the kind of talk."""
CHAT_CLASS = {"lost": "O", "found": "O", "greet": "K", "leave": "L", "plan": "L"}

REVIEWS: dict[str, tuple[str, ...]] = {
    "good": (
        "The {K} at the {L} was {Q}.",
        "I found a {Q} {O} here.",
        "The {J} was {Q} and very {G}.",
        "I will come back to the {L}.",
        "The {K} looked {Z}, but it was {Q}.",
        "My friends love the {L} too.",
    ),
    "bad": (
        "The {K} at the {L} was {Z}.",
        "I found a {Z} {O} here.",
        "The {J} was {Z} and never helped.",
        "I will never come back to the {L}.",
        "The {K} looked {Q}, but it was {Z}.",
        "My friends hate the {L} too.",
    ),
}

KIND_FIRST = ("Of course.", "Of course!")
KIND_LAST = "I hope this helps."
"""A warm labeler's extra words before or after an answer."""

FORUM_REPLIES: tuple[str, ...] = (
    "I do not know.", "I have the same question.", "I asked that last summer and nobody knew.", "Ask your teacher, {F}.",
    "You can find that in the library.", "Has nobody an answer?", "Why do you want to know that, {F}?",
    "That is a good question.", "Did you find it, {F}?", "Me too!", "Please ask in another place.", "I forgot how that goes.",
)  # fmt: skip
"""What people say in a forum when they have no answer."""
LETTER_SUBJECTS = {
    "thank": "thanks for the {x}", "invite": "come to the {x}", "ask": "some {x}, please", "sorry": "sorry for the {x}",
}  # fmt: skip
"""A letter's heading by its purpose."""
