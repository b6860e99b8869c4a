"""Shop questions with no download: a grammar writes them, eight categories, some of them ambiguous.

Half of the questions name a thing that only one category has. In the others the thing could be of two (a cover, a
battery), and what is said of it decides; in one question of twelve nothing does ("How long does the delivery take?"),
so that no answer is always right.
"""

import re
from collections.abc import Iterator

from etude.text.grammar import numbers, written

COUNTS = (2400, 400, 400)  # questions to train, validate and test
ONCE = 19760401  # the stream that everything is drawn from, once and for all
CATEGORIES = ("Baby", "Books", "Garden", "Kitchen", "Music", "Pets", "Phones", "Sports")

GRAMMAR: dict[str, tuple[str, ...]] = {
    "question": (*["{sure}"] * 6, *["{shared}"] * 5, "{vague}"),
    "sure": (
        "does this {Thing} come with {extra}?",
        "is the {Thing} {quality}?",
        "can I {use} with this {Thing}?",
        "how do I {use} with the {Thing}, it is {quality} but there is no manual.",
        "will this {Thing} last if I {use} every day?",
        "my {Thing} arrived without {extra}, is that normal?",
        "what is the difference between this {Thing} and the one that is {quality}?",
        "what size is the {Thing}",
    ),
    "shared": (
        "is the {Common} good enough to {use}?",
        "does the {Common} work when I {use}?",
        "the {Common} is not {quality}, can I still {use}?",
        "I want to {use}. is this {Common} what I need?",
        "which {Common} should I buy to {use}?",
    ),
    "vague": (
        "how long does the delivery take?",
        "can it be sent back?",
        "is this the {Quality} one or another model?",
        "do you ship to {Place}?",
        "what does the guarantee cover in {Place}?",
        "does it come in {Colour}?",
        "is the {Colour} one still made in {Place}?",
        "is the {Common} sold apart in {Colour}?",
    ),
    "Common": ("cover", "battery", "strap", "case", "stand", "brush", "bag", "light", "cable", "set"),
    "Quality": ("new", "old", "small", "large", "cheap", "expensive"),
    "Place": ("Canada", "Ireland", "Japan", "Norway", "Brazil", "Alaska", "Chile", "Malta", "Wales", "Cyprus", "Spain"),
    "Colour": ("red", "blue", "black", "white", "green", "yellow", "grey", "pink", "orange"),
}
# The words of each category, in the order of CATEGORIES: what it sells, what comes with it, what it is like, what one
# does with it.
KINDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "Thing": tuple(
        tuple(words.split(", "))
        for words in (
            "pram, bottle warmer, cot, pacifier, high chair, baby monitor",
            "novel, cookbook, atlas, paperback, dictionary, comic",
            "lawn mower, hose, greenhouse, rake, hedge trimmer, seed mix",
            "mixer, frying pan, toaster, coffee machine, kettle, knife block",
            "guitar, amplifier, keyboard stand, violin bow, microphone, drum kit",
            "dog collar, aquarium, litter box, bird cage, cat food, leash",
            "charger, handset, screen protector, headset, SIM adapter, power bank",
            "tennis racket, tent, bicycle pump, running shoe, yoga mat, helmet",
        )
    ),
    "extra": tuple(
        tuple(words.split(", "))
        for words in (
            "a rain hood, a spare teat, a mattress, a harness",
            "an index, a dust jacket, colour plates, a bookmark",
            "a nozzle, spare blades, a grass box, fertiliser",
            "a lid, a whisk, a filter, a recipe booklet",
            "spare strings, a pedal, a tuner, sheet music",
            "a water filter, a name tag, a feeding bowl, toys",
            "a USB plug, a SIM tray, earphones, a screen cloth",
            "a carrying sack, spare laces, tent pegs, a repair kit",
        )
    ),
    "quality": tuple(
        tuple(words.split(", "))
        for words in (
            "safe for a newborn, free of BPA, soft enough, foldable",
            "unabridged, in large print, illustrated, signed by the author",
            "frost proof, self watering, rust free, good for clay soil",
            "dishwasher safe, non-stick, oven proof, easy to descale",
            "in tune, loud enough for a stage, left-handed, good for beginners",
            "chew proof, good for puppies, odour free, large enough for two cats",
            "unlocked, waterproof to one metre, compatible with Android, fast charging",
            "light enough to run with, breathable, approved for races, stiff enough",
        )
    ),
    "use": tuple(
        tuple(words.split(", "))
        for words in (
            "carry my twins, warm the milk, bath an infant, change nappies",
            "read at night, study for an exam, give it to a reader, translate a chapter",
            "water the roses, mow the lawn, prune the hedge, grow tomatoes",
            "bake bread, brew espresso, fry eggs, chop onions",
            "play in a band, record a song, practise scales, tune the strings",
            "walk my dog, clean the tank, train a puppy, groom a rabbit",
            "send messages, call abroad, charge it overnight, take a selfie",
            "cycle to work, climb a wall, swim laps, camp in the rain",
        )
    ),
}
UNSEEN = {"Place": ("Iceland", "Peru", "Kenya", "Crete", "Nepal", "Texas", "Fiji", "Ghana", "Oman", "Cuba", "Laos")}


def parts() -> tuple[tuple[list[str], list[int]], ...]:
    """Training, validation and test part: questions and numbers of categories; the same at every call and everywhere.

    No question is in two parts, and none is in one of them twice.
    """
    seen: set[str] = set()
    found = []
    for part, count in enumerate(COUNTS):
        draws = numbers(ONCE, part)
        grammar = GRAMMAR | (UNSEEN if part == 2 else {})
        texts: list[str] = []
        while len(texts) < count:
            text = question(len(texts) % len(CATEGORIES), grammar, draws)
            if text not in seen:
                seen.add(text)
                texts.append(text)
        found.append((texts, [n % len(CATEGORIES) for n in range(count)]))
    return tuple(found)


def question(category: int, grammar: dict[str, tuple[str, ...]], draws: Iterator[float]) -> str:
    """One question about something of a category."""
    rules = grammar | {symbol: words[category] for symbol, words in KINDS.items()}
    text = written("question", 0, rules, {}, draws)
    return re.sub(r"(?:^|(?<=[.!?] ))[a-z]", lambda first: first[0].upper(), text)
