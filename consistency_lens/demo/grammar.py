"""The sentences of the demo world: how a fact is stated, where it is needed again, and what stands between.

`{kind}` is the word of a fact. `{~kind}` is one that the words before it do not settle: a summary may open with any
fact. `[list]` is a free choice from `words.LEXICON`. The words of a clause that come before a `{slot}` without `~`
allow nothing but that slot.
"""

from __future__ import annotations

# A group is stated in one sentence; the colour is that of the wagon.
GROUPS: dict[str, tuple[str, ...]] = {
    "hero": ("hero",),
    "place": ("place",),
    "friend": ("friend",),
    "thing": ("object",),
    "wagon": ("colour",),
    "animal": ("animal",),
    "food": ("food",),
    "feeling": ("feeling",),
}

STATED: dict[str, tuple[str, ...]] = {
    "hero": (
        "once there was a child called {hero} .",
        "a child called {hero} woke up early one [time] .",
        "{hero} was a child who liked long walks .",
        "this is the story of a child called {hero} .",
        "{hero} is the name of the child in this story .",
    ),
    "place": (
        "the child lived at the {place} .",
        "it began at the {place} , where the child lived .",
        "the {place} was the home of the child .",
        "home was the {place} , and the child loved it .",
    ),
    "friend": (
        "the friend of the child was a {friend} .",
        "a {friend} was the friend of the child .",
        "the child had a friend who worked as a {friend} .",
    ),
    "thing": (
        "the child had found a {object} .",
        "on the table lay a {object} .",
        "in the corner there was a {object} .",
        "the child owned a {object} .",
    ),
    "wagon": (
        "the wagon of the child was {colour} .",
        "a {colour} wagon belonged to the child .",
        "the child had a wagon , and its colour was {colour} .",
    ),
    "animal": (
        "the pet of the child was a {animal} .",
        "a {animal} was the pet of the child .",
        "the child kept a {animal} as a pet .",
    ),
    "food": (
        "the child had packed some {food} for lunch .",
        "for lunch there was some {food} .",
        "there was some {food} in the basket .",
    ),
    "feeling": (
        "the child felt {feeling} that day .",
        "{feeling} was how the child felt .",
        "that day the child was very {feeling} .",
    ),
}

NEEDED: dict[str, tuple[str, ...]] = {
    "hero": (
        "somebody shouted the name of the child : {hero} !",
        "the child wrote down a name , and it was {hero} .",
        "the child said : my name is {hero} .",
        "the name of the child was still {hero} .",
    ),
    "place": (
        "at last the child went home to the {place} .",
        "in the end they were all back at the {place} .",
        "that [time] the child dreamed of home , of the {place} .",
    ),
    "friend": (
        "the friend , who was a {friend} , smiled .",
        "then the friend went to work as a {friend} .",
        "the friend told them about the life of a {friend} .",
    ),
    "thing": (
        "then they took out the {object} .",
        "the child held up the {object} .",
        "somebody put the {object} near the [like] [thing] .",
        "in the [time] they cleaned the {object} again .",
    ),
    "wagon": (
        "somebody pushed the wagon , which was {colour} .",
        "they painted a [thing] like the wagon , in the colour {colour} .",
        "behind the [thing] stood the wagon , as [like] and {colour} as before .",
    ),
    "animal": (
        "the pet , a {animal} , wanted to play .",
        "the child fed the pet , a hungry {animal} .",
        "behind the [thing] sat the pet , a [like] {animal} .",
    ),
    "food": (
        "they sat down and ate the {food} .",
        "after [number] hours the child ate some {food} .",
        "the basket was opened and out came the {food} .",
    ),
    "feeling": (
        "the child still felt {feeling} .",
        "when somebody asked , the child felt {feeling} .",
        "nothing had changed and the child was still {feeling} .",
    ),
}

FILLERS: tuple[str, ...] = (
    "the [weather] came [how] over the [thing] and the [thing] .",
    "a [like] [noise] was heard near the [thing] .",
    "[number] [like] clouds moved [how] across the sky .",
    "the clock struck [number] and the [time] grew [like] .",
    "somebody [moved] [how] past the [like] [thing] .",
    "after [number] days the [weather] stopped and the [thing] was [like] again .",
    "nobody knew why the [like] [thing] was so [like] .",
    "they [moved] along the [thing] and [moved] over the [thing] .",
    "it was a [like] [time] and the [weather] was [like] .",
    "far away a [like] [thing] could be seen from the [thing] .",
    "soon the [thing] and the [thing] were covered in [weather] .",
    "then [number] leaves fell [how] on the [like] [thing] .",
    "no one said a word for [number] [like] minutes .",
    "a [like] stranger asked the way to the [thing] .",
    "the [thing] creaked [how] in the [weather] .",
    "all at once there was a [noise] behind the [thing] .",
)

SUMMARY_OPENERS: tuple[str, ...] = ("in short :", "this means :", "short explanation of this :")
SUMMARY: dict[str, tuple[str, ...]] = {
    "hero": ("the child is called {hero}",),
    "place": ("the place is the {place}", "{~hero} is at the {place}"),
    "friend": ("the friend is a {friend}",),
    "thing": ("the child has the {object}", "{~hero} has the {object}"),
    "wagon": ("the wagon is {colour}",),
    "animal": ("the pet is a {animal}",),
    "food": ("the food is {food}",),
    "feeling": ("the child feels {feeling}", "{~hero} feels {feeling}"),
}
