"""GLUE-shaped data from small grammars: the source `data=mini`, which needs no download.

Every pair is one scene told twice. The label says which facts the second telling changes, and a changed
fact is redrawn evenly, so each sentence alone, and the sum of both as a bag of words, says nothing of the
label: only comparing the two does. The slots have few values, so a small transformer learns that
comparison from a few thousand rows. Nothing here is copied from GLUE; scores on it are not GLUE scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import numpy as np

from dora.data.tasks import Rows, Task

Draw = Callable[[Random], tuple[str, str | None, float]]

SIZES = {"train": 2400, "dev": 400, "dev_mm": 400, "test": 300, "test_mm": 300, "ax": 300}
_WNLI_TRAIN = 1500  # as in GLUE, the smallest


@dataclass(frozen=True)
class Grammar:
    """How the rows of a pair task are told.

    `first`, `second`: templates of the two sentences. `slots`: the facts' values; `|` parts wordings
    of one value, and what follows `>` are its wordings in the second sentence.
    `changes`: for each label the sets of slots of which one set is changed. `odds`: the labels' shares.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]
    changes: tuple[tuple[tuple[str, ...], ...], ...]
    odds: tuple[float, ...]


_NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Felix", "Grace", "Henry")
_DAYS = ("Monday", "Tuesday", "Thursday", "Friday", "Sunday")

_MNLI = Grammar(
    first=(
        "The {who} left the {thing} {where} {time}.",
        "{time}, the {who} left the {thing} {where}.",
        "The {who}, {mood} as ever, left the {thing} {where}.",
    ),
    second=(
        "The {thing} of the {who} is {where}.",
        "It is {where} that the {who} left the {thing}.",
    ),
    slots={
        "who": ("doctor", "farmer", "teacher", "artist"),
        "thing": ("coat", "hat", "letter", "camera", "phone", "map", "cup"),
        "where": ("in the garden|outside", "in the kitchen", "at work", "in the car"),
        "time": ("yesterday", "last week", "this morning", "after lunch", "before the meeting"),
        "mood": ("tired", "happy", "busy", "late"),
    },
    changes=(((),), (("who",), ("who", "where")), (("where",),)),
    odds=(1, 1, 1),
)
_MNLI_MISMATCHED = replace(
    _MNLI,
    first=(
        "Uh, so the {who} left the {thing} {where} {time}.",
        "Well {time}, the {who} left the {thing} {where}.",
        "Yeah, the {who}, {mood} you know, left the {thing} {where}.",
    ),
    slots=_MNLI.slots
    | {
        "thing": ("guitar", "ticket", "laptop", "sweater", "magazine"),
        "time": ("at noon", "on vacation", "the other day", "back then"),
        "mood": ("crazy", "lucky", "sleepy"),
    },
)

_PAIRS = {
    "mrpc": Grammar(
        first=(
            "{firm} will {plan} {count} {staff} in {month}, {who} said on {day}.",
            "{who} said on {day} that {firm} will {plan} {count} {staff} in {month}.",
        ),
        second=(
            "According to {who}, {firm} will {plan} {count} {staff} in {month}.",
            "In {month}, {firm} will {plan} {count} {staff}, {who} told reporters.",
        ),
        slots={
            "firm": ("Acme", "Globex", "Initech", "Umbra", "Vortex"),
            "plan": ("hire|take on", "dismiss|lay off", "train", "move"),
            "count": ("hundreds of", "dozens of", "a thousand", "a few"),
            "staff": ("workers|employees", "engineers", "drivers"),
            "month": ("March", "May", "July", "October"),
            "who": _NAMES,
            "day": _DAYS,
        },
        changes=((("plan",), ("plan", "month"), ("month",)), ((),)),
        odds=(1, 2),
    ),
    "qqp": Grammar(
        first=("How can I {act} {what} {where}?", "How do I {act} {what} {where}?"),
        second=(
            "What is the best way to {act} {what} {where}?",
            "What should I do to {act} {what} {where}?",
        ),
        slots={
            "act": ("learn|study", "teach", "sell", "buy|get"),
            "what": ("English", "music", "a guitar", "chess"),
            "where": (
                "at home", "in India", "in college", "on the internet|online", "in Canada", "at work",
                "in London", "as a child", "for free", "this year", "in one week", "with a friend",
                "after school", "at my age",
            ),
        },
        changes=((("act",), ("what",), ("act", "what")), ((),)),
        odds=(63, 37),
    ),
    "qnli": Grammar(
        first=("{ask} did the {age} {who} {act}?",),
        second=("The {who} {act} {ask}.", "{source} that the {who} {act} {ask}."),
        slots={
            "ask": (
                "Where>in Rome|in a small town|in the north",
                "When>on Monday|on a cold day|on the same night",
                "Why>to help friends|to earn money|to win fame",
                "How>by train|by luck|by hard work",
            ),
            "who": ("king", "army", "singer", "pilot"),
            "age": ("old", "young", "famous", "first", "rich", "last", "great", "proud"),
            "source": ("It is known", "Records show", "One book says", "Letters tell us"),
            "act": (
                "travel>travelled",
                "build the bridge>built the bridge",
                "write the song>wrote the song",
                "find the map>found the map",
                "paint>painted",
                "arrive>arrived",
            ),
        },
        changes=(((),), (("ask",), ("who",), ("ask", "who"))),
        odds=(1, 1),
    ),
    "rte": Grammar(
        first=(
            "{who}, who runs {firm}, {did} in {place} on {day}.",
            "On {day}, the head of {firm}, {who}, {did} in {place}.",
        ),
        second=("{who} {did} in {place}.", "It was in {place} that {who} {did}."),
        slots={
            "who": ("Anna", "Ben", "Carla", "David"),
            "firm": ("a bank", "an airline", "a school", "a newspaper", "a hospital"),
            "did": (
                "was arrested>was caught by the police",
                "gave a speech>spoke",
                "bought a house>became a home owner",
                "died>lost his life",
            ),
            "place": ("Paris|Lyon>France", "Berlin|Munich>Germany", "Rome|Milan>Italy", "Tokyo|Osaka>Japan"),
            "day": _DAYS,
        },
        changes=(((),), (("place",), ("did",), ("place", "did"))),
        odds=(1, 1),
    ),
}  # fmt: skip

_STSB = Grammar(
    first=("A {who} is {doing} {what} {where}.",),
    second=("A {who} is {doing} {what} {where}.", "There is a {who} {doing} {what} {where}."),
    slots={
        "who": ("man", "woman", "boy", "girl"),
        "doing": ("holding|carrying", "washing|cleaning", "painting", "selling"),
        "what": ("a bike|a bicycle", "a chair", "a boat", "a box"),
        "where": ("in a park", "on a street|on a road", "at a beach", "in a yard"),
    },
    changes=(),
    odds=(),
)
_STSB_WEIGHT = {"who": 1.3, "doing": 1.7, "what": 1.3, "where": 0.7}  # sums to 5, a perfect match

# What the pronoun names turns on one word: too large is the thing, too small is its container.
_WNLI_FIRST = (
    "The {thing} did not fit into the {box} because it was too {why}",
    "The {thing} could not go through the {box} because it was too {why}",
)
_WNLI_END = (".", ", {name} said.", ", {name} told us on {day}.", ", as {name} saw on {day}.")
_WNLI_SECOND = ("The {named} was too {why}.", "The {named} is {why}.")
_THING, _BOX = ("trophy", "piano", "ladder", "statue"), ("door", "box", "window", "drawer")

# Singular then plural.
_NOUN = tuple(
    w.split("/")
    for w in [
        "dog/dogs",
        "child/children",
        "author/authors",
        "girl/girls",
        "horse/horses",
        "woman/women",
        "bird/birds",
    ]
)
_VERB = tuple(
    w.split("/")
    for w in ["sleeps/sleep", "has/have", "was/were", "walks/walk", "laughs/laugh", "sings/sing", "eats/eat"]
)
_DETERMINER = (("this", "these"), ("that", "those"))
_ADJECTIVE = ("old", "small", "quiet", "happy", "clever", "lazy")
_AFTER = {"has": ("a name", "a home", "a friend"), "was": ("here", "late", "alone")}
_END = (" today", " again", " in the house", " near the river", " after dinner", "")

_PRAISE = ("good", "great", "funny", "moving", "charming", "clever")
_BLAME = ("bad", "dull", "awful", "boring", "silly", "weak")
_PART = ("film", "plot", "story", "acting", "script", "ending", "music", "humor")


def _wording(value: str, side: int, rng: Random) -> str:
    sides = value.split(">")
    return rng.choice(sides[min(side, len(sides) - 1)].split("|"))


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _tell(templates: tuple[str, ...], facts: dict[str, str], side: int, rng: Random) -> str:
    """One sentence with the wordings of `side` (0 first, 1 second), its first letter upper-case."""
    text = rng.choice(templates).format(**{slot: _wording(v, side, rng) for slot, v in facts.items()})
    return _capital(text)


def _retell(grammar: Grammar, change: tuple[str, ...], rng: Random) -> tuple[str, str]:
    """A scene and its second telling, in which the slots of `change` have another value."""
    facts = {slot: rng.choice(values) for slot, values in grammar.slots.items()}
    changed = {slot: rng.choice([v for v in grammar.slots[slot] if v != facts[slot]]) for slot in change}
    return _tell(grammar.first, facts, 0, rng), _tell(grammar.second, facts | changed, 1, rng)


def _pair(grammar: Grammar) -> Draw:
    def draw(rng: Random) -> tuple[str, str, float]:
        label = rng.choices(range(len(grammar.odds)), grammar.odds)[0]
        return *_retell(grammar, rng.choice(grammar.changes[label]), rng), label

    return draw


def _stsb(rng: Random) -> tuple[str, str, float]:
    change = tuple(slot for slot in _STSB_WEIGHT if rng.random() < 0.5)
    score = sum(w for slot, w in _STSB_WEIGHT.items() if slot not in change)
    rated = sum(min(5.0, max(0.0, rng.gauss(score, 0.5))) for _ in range(5)) / 5  # five raters, as in STS-B
    return *_retell(_STSB, change, rng), round(rated, 2)


def _wnli(rng: Random) -> tuple[str, str, float]:
    thing, box = rng.choice(_THING), rng.choice(_BOX)
    cause, named = rng.randrange(2), rng.randrange(2)
    words = {"thing": thing, "box": box, "why": ("large", "small")[cause], "named": (thing, box)[named]}
    words |= {"name": rng.choice(_NAMES), "day": rng.choice(_DAYS)}
    first = rng.choice(_WNLI_FIRST) + rng.choice(_WNLI_END)
    return first.format(**words), rng.choice(_WNLI_SECOND).format(**words), int(cause == named)


def _cola(rng: Random) -> tuple[str, None, float]:
    """A clause that agrees in number, or one with a broken agreement or a broken word order."""
    noun, verb, number = rng.choice(_NOUN), rng.choice(_VERB), rng.randrange(2)
    broken = rng.choice(("verb", "determiner", "order")) if rng.random() < 0.3 else None
    subject = [rng.choice(_DETERMINER)[number ^ (broken == "determiner")], noun[number]]
    if rng.random() < 0.7:
        subject.insert(1, rng.choice(_ADJECTIVE))
    if broken == "order":
        subject.reverse()
    rest = rng.choice(_AFTER.get(verb[0], ("well", "often", "a lot")))
    if rng.random() < 0.5:
        subject.append(f"near the {rng.choice(_NOUN)[rng.randrange(2)]}")  # its number is of no matter
    text = f"{' '.join(subject)} {verb[number ^ (broken == 'verb')]} {rest}{rng.choice(_END)}."
    return _capital(text), None, int(broken is None)


def _sst2(rng: Random) -> tuple[str, None, float]:
    """Two judgements, the last of which decides; each is praise or blame, or the other one negated."""

    def judged(good: bool) -> str:
        negated = rng.random() < 0.3
        word = rng.choice(_PRAISE if good != negated else _BLAME)
        return f"{'not ' if negated else ''}{rng.choice(('', 'very ', 'really ', 'so '))}{word}"

    label, turn = rng.randrange(2), rng.random() < 0.3
    a, b = rng.sample(_PART, 2)
    opening = f"the {a} is {judged(bool(label) != turn)}"
    return f"{opening} {'but' if turn else 'and'} the {b} is {judged(bool(label))}", None, label


def _either(*draws: Draw) -> Draw:
    return lambda rng: rng.choice(draws)(rng)


_DRAWS: dict[str, Draw] = {
    "cola": _cola,
    "sst2": _sst2,
    "stsb": _stsb,
    "wnli": _wnli,
    "mnli": _pair(_MNLI),
    "ax": _either(_pair(_MNLI), _pair(_MNLI_MISMATCHED)),
    **{name: _pair(grammar) for name, grammar in _PAIRS.items()},
}


def mini(task: Task) -> dict[str, Rows]:
    """Every split of `task` under our names of the splits, the same rows on every machine.

    No sentence or pair occurs twice, within a split or across splits. Labels are int64 ids in the order of
    `task.labels`, float64 in [0, 5] for STS-B, and None on the test splits and AX, as GLUE publishes them.
    """
    seen: set[tuple[str, str | None]] = set()
    return {split: _split(task, split, seen) for split in task.splits}


def _split(task: Task, split: str, seen: set[tuple[str, str | None]]) -> Rows:
    # A seed per split: enlarging one leaves the others alone. Random hashes strings the same everywhere.
    rng = Random(f"{task.name}/{split}")
    draw = _pair(_MNLI_MISMATCHED) if split.endswith("_mm") else _DRAWS[task.name]
    size = _WNLI_TRAIN if (task.name, split) == ("wnli", "train") else SIZES[split]
    rows: list[tuple[str, str | None, float]] = []
    while len(rows) < size:
        row = draw(rng)
        if row[:2] not in seen:
            seen.add(row[:2])
            rows.append(row)
    first, second, label = zip(*rows, strict=True)
    return Rows(
        first=list(first),
        second=None if len(task.text) == 1 else list(second),
        label=np.array(label, np.float64 if task.regression else np.int64)
        if split.startswith(("train", "dev"))
        else None,
        idx=np.arange(size),
    )
