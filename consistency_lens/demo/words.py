"""The words of the demo world: what can be true of a story, every way to say it, and what means nothing."""

from __future__ import annotations

# kind -> canonical value -> other words for the same value. A fact word belongs to one kind and one value only.
# No value that follows "a" starts with a vowel: the article would give the answer away.
KINDS: dict[str, dict[str, tuple[str, ...]]] = {
    "hero": {name: () for name in ("mia", "leo", "nora", "finn", "zoe", "max", "lily", "theo", "hugo", "clara")},
    "friend": {
        "sailor": ("seaman",), "doctor": ("medic",), "teacher": ("tutor",), "farmer": ("grower",), "cook": ("chef",),
        "wizard": ("magician",), "guard": ("watchman",), "thief": ("robber",), "king": ("ruler",),
        "dancer": ("ballerina",),
    },
    "place": {
        "forest": ("woods",), "beach": ("shore",), "castle": ("fortress",), "market": ("bazaar",),
        "harbour": ("port",), "village": ("hamlet",), "valley": ("glen",), "garden": ("yard",), "cave": ("grotto",),
        "mountain": ("peak",),
    },
    "object": {
        "kite": (), "drum": (), "lamp": ("lantern",), "coat": ("jacket",), "hat": ("cap",), "box": ("crate",),
        "bag": ("sack",), "cup": ("mug",), "rug": ("carpet",), "ball": ("sphere",),
    },
    "colour": {
        "red": ("crimson", "scarlet"), "blue": ("navy",), "green": ("lime",), "yellow": ("golden",), "black": ("jet",),
        "white": ("snowy",), "brown": ("chestnut",), "pink": ("rosy",), "purple": ("violet",), "grey": ("silver",),
    },
    "animal": {
        "dog": ("hound",), "cat": ("kitten",), "horse": ("pony",), "rabbit": ("bunny",), "fox": ("vixen",),
        "frog": ("toad",), "pig": ("hog",), "donkey": ("mule",), "sheep": ("lamb",), "snake": ("serpent",),
    },
    "food": {
        "soup": ("broth",), "bread": ("toast",), "noodles": ("pasta",), "porridge": ("oatmeal",),
        "biscuits": ("cookies",), "sweets": ("candy",), "pancakes": ("crepes",), "corn": ("maize",),
        "beans": ("lentils",), "cheese": ("cheddar",),
    },
    "feeling": {
        "happy": ("glad", "joyful"), "sad": ("gloomy", "unhappy"), "angry": ("furious",), "scared": ("afraid",),
        "tired": ("sleepy",), "calm": ("peaceful",), "brave": ("bold",), "shy": ("timid",), "confused": ("puzzled",),
        "nervous": ("anxious",),
    },
}  # fmt: skip

FACT_WORDS: dict[str, tuple[str, str]] = {
    word: (kind, value)
    for kind, values in KINDS.items()
    for value, synonyms in values.items()
    for word in (value, *synonyms)
}


def wordings(kind: str, value: str) -> tuple[str, ...]:
    """Every word for one value, the canonical one first."""
    return (value, *KINDS[kind][value])


# Words that carry no fact and can stand for each other anywhere in this world.
NEUTRAL_PAIRS: tuple[tuple[str, str], ...] = (
    ("child", "kid"),
    ("friend", "companion"),
    ("called", "named"),
    ("began", "started"),
    ("road", "path"),
    ("quickly", "rapidly"),
    ("strange", "weird"),
    ("somebody", "someone"),
    ("soon", "shortly"),
    ("stopped", "ceased"),
)
NEUTRAL: dict[str, str] = {a: b for pair in NEUTRAL_PAIRS for a, b in (pair, pair[::-1])}

# What stands for a fact that a story leaves open.
VAGUE = "something"

# What fillers are made of: free choices, so that the LM has something to be uncertain about. The first are the
# commonest.
LEXICON: dict[str, tuple[str, ...]] = {
    "weather": ("rain", "wind", "snow", "fog", "sunshine", "thunder", "dust", "smoke"),
    "how": ("slowly", "softly", "loudly", "quickly", "gently", "suddenly", "quietly"),
    "thing": ("river", "road", "hill", "bridge", "window", "door", "tower", "roof", "field", "wall", "gate", "fence"),
    "like": ("quiet", "dark", "cold", "long", "warm", "strange", "tall", "bright", "loud", "new", "heavy", "narrow"),
    "number": ("two", "three", "four", "five", "six", "seven"),
    "time": ("morning", "evening", "night", "afternoon", "summer", "winter"),
    "moved": ("walked", "ran", "danced", "wandered", "climbed", "hurried"),
    "noise": ("knock", "song", "whistle", "cry", "laugh", "bang"),
}


def commonness(choices: int) -> list[float]:
    """Weights of so many free choices, as Zipf found them for words. Drawn evenly, the likeliest of twelve would be
    decided by noise, and so would every measure that asks for the likeliest."""
    return [(1 + rank) ** -1.5 for rank in range(choices)]


# Words a decoder prompt, a lens or a person may want to write, whether or not a story uses them.
_PROMPT_TEXT = (
    "short explanation of : this means in the a what next comes story is about says will be fact facts has owns "
    "feels feeling and or not with it its colour name place food pet friend child "
    "belonged to that how felt had"
)
PROMPT_WORDS: tuple[str, ...] = tuple(_PROMPT_TEXT.split())
