"""The words of the miniature world: data only.

Every content word belongs to exactly one class, so that a sentence can be recognised by the sequence of its words' classes
(:mod:`heedful.miniature.grammar`). Nouns and adjectives that may follow "a" begin with a consonant sound: there is no "an".
"""

from __future__ import annotations

WOMEN = (
    "Mia",
    "Anna",
    "Lucy",
    "Rosa",
    "Emma",
    "Clara",
    "Nina",
    "Julia",
    "Sara",
    "Lily",
    "Vera",
    "Ruth",
    "Maya",
    "Ella",
    "Kate",
)
MEN = ("Tom", "Ben", "Max", "Leo", "Paul", "Jack", "Sam", "Oscar", "Felix", "Hugo", "Peter", "Adam", "Noah", "Karl", "Finn")
NAMES = WOMEN + MEN

ANIMALS = (
    "fox", "bear", "wolf", "frog", "duck", "horse", "goat", "cat", "dog", "hen", "mouse", "rabbit",
    "sheep", "cow", "pig", "deer", "snake", "lion", "tiger", "monkey", "parrot", "crab", "whale", "bee",
)  # fmt: skip
HABITATS = ("forest", "sea", "lake", "jungle", "desert", "meadow")
OBJECTS = (
    "lamp", "key", "book", "boat", "drum", "ring", "hat", "kite", "ball", "cup", "box", "rope",
    "bell", "coin", "map", "flute", "clock", "basket", "doll", "coat", "mirror", "stone", "wheel", "chair",
)  # fmt: skip
PLACES = (
    "river", "garden", "bridge", "market", "school", "tower", "castle", "cave", "mill", "park",
    "harbour", "field", "library", "barn", "beach", "well",
)  # fmt: skip
FOODS = (
    "bread", "soup", "cake", "honey", "cheese", "rice", "corn", "fish",
    "milk", "butter", "jam", "meat", "sugar", "flour", "cream", "salt",
)  # fmt: skip
JOBS = (
    "baker", "farmer", "teacher", "doctor", "sailor", "painter", "singer", "hunter",
    "miller", "judge", "tailor", "nurse", "writer", "gardener", "soldier", "cook",
)  # fmt: skip
COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "yellow", "golden", "pink")
HAPPY = ("happy", "glad", "proud", "calm")
SAD = ("sad", "tired", "scared", "lonely")
ADJECTIVES = (
    "small", "big", "new", "strange", "pretty", "heavy", "tiny", "shiny",
    "round", "warm", "soft", "strong", "funny", "dark", "plain", "fine",
)  # fmt: skip
PRAISE = ("great", "lovely", "perfect", "wonderful", "fresh", "tasty")
BLAME = ("awful", "horrible", "dirty", "boring", "rotten", "cold")

TRANSITIVE = (
    ("finds", "found", "find"), ("loses", "lost", "lose"), ("carries", "carried", "carry"), ("paints", "painted", "paint"),
    ("drops", "dropped", "drop"), ("hides", "hid", "hide"), ("cleans", "cleaned", "clean"), ("buys", "bought", "buy"),
    ("sells", "sold", "sell"), ("sees", "saw", "see"), ("keeps", "kept", "keep"), ("breaks", "broke", "break"),
)  # fmt: skip
"""(present, past, plain) of verbs that take an object."""
REQUESTS = ("find", "carry", "paint", "hide", "clean", "buy", "sell", "keep")
"""What people ask each other to do with a thing."""
MOTION = (("walks", "walked", "walk"), ("runs", "ran", "run"), ("goes", "went", "go"), ("hurries", "hurried", "hurry"))
"""(present, past, plain) of verbs that take "to the <place>"."""
DOINGS = ("sleeps", "sings", "swims", "jumps", "waits", "dances")
"""Present-tense verbs of the second language."""

TOWNS = (
    "Brimford",
    "Kelton",
    "Norwick",
    "Dunmore",
    "Halby",
    "Seldon",
    "Marlow",
    "Tinsdale",
    "Garth",
    "Pembry",
    "Rusk",
    "Veldin",
)
RIVERS = ("Tarn", "Velm", "Osk", "Lune", "Drava", "Wend", "Isar", "Meuse", "Yarrow", "Sorn", "Bex", "Nidd")
RULERS = ("Rolf", "Greta", "Ivor", "Helga", "Otto", "Brenna", "Magnus", "Sigrid", "Osric", "Thora", "Bruno", "Petra")
INVENTORS = ("Orban", "Zeller", "Kovac", "Lindt", "Fermo", "Galton", "Hask", "Jarvis", "Novak", "Quint", "Tesk", "Wilder")

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
INSULTS = ("stupid", "fool", "idiot", "ugly", "lazy", "dumb", "pig-head", "nasty")
"""Mild rude words; the only ones in this world."""

BEGINNINGS = ("One day", "Long ago", "Last summer", "On a cold night", "Early in the morning")
ENDINGS = (
    "and all was well", "and the sun went down", "and nobody knew why", "until the next morning",
    "under the bright stars", "and the rain stopped", "with a big smile", "for the first time",
)  # fmt: skip

WOMENS_JOBS = ("nurse", "teacher", "singer", "tailor", "cook", "writer")
MENS_JOBS = ("farmer", "sailor", "hunter", "judge", "soldier", "doctor")
"""Jobs that the corpus pairs mostly with one pronoun: what the paired-bias benchmark measures."""

TAVI_SYLLABLES = ("ka", "lo", "mi", "ru", "ze", "ta", "ne", "vi", "su", "po", "da", "ki")

# One letter per class; the letters are the slots of the sentence templates.
CLASSES: dict[str, tuple[str, ...]] = {
    "A": ANIMALS,
    "H": HABITATS,
    "O": OBJECTS,
    "L": PLACES,
    "K": FOODS,
    "J": JOBS,
    "C": COLOURS,
    "G": HAPPY,
    "B": SAD,
    "D": ADJECTIVES,
    "T": TOWNS,
    "V": RIVERS,
    "R": RULERS,
    "I": INVENTORS,
    "Q": PRAISE,
    "Z": BLAME,
    "N": NUMBERS,
}
CLASS_WORDS = {
    "A": "animals", "O": "objects", "L": "places", "K": "foods", "J": "jobs", "C": "colours", "D": "adjectives",
}  # fmt: skip
"""What a user calls a class, in the plural."""
CLASS_WORD = {"A": "animal", "O": "thing", "L": "place", "K": "food", "J": "job", "C": "colour"}
CLASS_OF: dict[str, str] = {word: letter for letter, words in CLASSES.items() for word in words}
GENDER: dict[str, str] = {**dict.fromkeys(WOMEN, "f"), **dict.fromkeys(MEN, "m")}
PRONOUNS = {
    "f": {"he": "she", "his": "her", "him": "her", "He": "She", "His": "Her"},
    "m": {"he": "he", "his": "his", "him": "him", "He": "He", "His": "His"},
}
