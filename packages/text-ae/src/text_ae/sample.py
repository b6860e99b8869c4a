"""Short messages with no download, in the manner of tweets: written by a small grammar, sad and happy in equal numbers.

In three of five messages single words tell the tag. In the others a word of each mood stands on either side of a
negation, a contrast or a change ("I am not sad, I am happy" and "I am not happy, I am sad"), so that the same words
in another order have the other tag. Both tags share every frame, and whatever else is said is drawn alike for both.
"""

import re
from collections.abc import Iterator

from etude.text.grammar import numbers, written

COUNTS = (6000, 750, 750)  # messages to train, validate and test
CLASSES = ("0.0", "1.0")  # sad, happy: the tags of Sentiment140
ONCE = 20090406  # the stream that everything is drawn from, once and for all
LONGEST = 20  # words of a message

# See `etude.text.grammar`; the moods are sad and happy.
GRAMMAR: dict[str, tuple[str, ...]] = {
    "clear": (
        "{opinion+}{end} {tail+}",
        "{opinion+}{end} {tail+}",
        "{opinion+}{end}",
        "{handle} {opinion+}{end}",
        "{handle} {opinion+}{end} {tail+}",
        "{fact}, {opinion+}{end}",
        "{fact}, {opinion+}{end} {tail+}",
        "{fact}{stop} {opinion+}{end}",
        "{opinion+}{stop} {fact}{end} {tail+}",
        "{fact}{stop} {opinion+}{end} {topic}",
        "{opinion+} because I {deed+}{end}",
        "{handle} {fact}, {opinion+}{end}",
        "{opinion+} and {opinion+}{end}",
        "{word}, {opinion+}{end} {tail+}",
    ),
    "turned": (
        "{turn+}{end}",
        "{turn+}{end} {topic}",
        "{handle} {turn+}{end}",
        "{handle} {turn+}{end} {topic}",
        "{word}, {turn+}{end}",
        "{fact}{stop} {turn+}{end}",
        "{fact}, {turn+}{end}",
        "{turn+}{stop} {fact}{end}",
    ),
    "opinion": (
        "I am {so} {mood+}",
        "feeling {mood+} {time}",
        "I {verb+} {owned}",
        "I {verb+} {place} in the {season}",
        "{owned} is {so} {quality+}",
        "this {food} is {quality+}",
        "what a {quality+} {span}",
        "{Person} is {mood+} {time}",
        "I {deed+} {past}",
        "{Person} says the {show} was {quality+}",
        "{quality+} {span} with {Person}",
    ),
    "turn": (
        "I am not {mood-}, I am {mood+}",
        "not {mood-} {time}, just {mood+}",
        "I was {mood-} {past}, now I am {mood+}",
        "now I am {mood+}, I was {mood-} {past}",
        "I went from {mood-} to {mood+} in one {span}",
        "{owned} is not {quality-}, it is {quality+}",
        "I thought {time} would be {quality-} but it was {quality+}",
        "{Person} called the {show} {quality-}, no, it is {quality+}",
        "everybody looks {mood-} but I am {mood+}",
        "I am more {mood+} than {mood-}",
        "I am less {mood-} than {mood+}",
        "I do not {verb-} the {food} here, I {verb+} it",
        "why is {Person} {mood-} when I am so {mood+}",
    ),
    "fact": (
        "just got back from {place}",
        "going to {place} {time}",
        "sitting in {place} with {Person}",
        "{Person} is at the {spot} {time}",
        "on my way to the {spot}",
        "watching the {show} with {Person}",
        "listening to {music} {time}",
        "have to {task} {time}",
        "{Person} called me {past}",
        "making {food} for {Person}",
        "reading about {music} at the {spot}",
        "about to {task}",
        "it is {hour} in {place}",
        "still awake at {hour}",
        "{Person} and I will {task} {time}",
    ),
    "owned": ("my {thing}", "my new {thing}", "the {thing}", "this {thing}", "my old {thing}"),
    "so": ("so", "really", "very", "a bit", "quite", "still"),
    "end": ("", "", ".", "!", "!!", "..."),
    "stop": (".", "!", "..."),
    "word": ("ok", "well", "hey", "hmm", "oh", "so", "morning all", "hi everyone", "guess what", "btw"),
    "handle": tuple(
        "@emma @jakob99 @lisa_k @djtom @mrbean @katie_x @sam2009 @thenewguy @bluebird @ninja_cat @paulw @rosie "
        "@jonas_b @teaandtoast @marcus @radiofan @zoe_m @skaterboy @mama_bear @coffeegirl @oldtimer @nightowl @benny "
        "@cityfox".split()
    ),
    "topic": tuple(
        "#monday #friday #nowplaying #london #music #work #school #tv #followfriday #weekend #coffee #fb".split()
    ),
    "Person": (
        *"Emma Tom Lisa Jake Anna Kevin Sarah Mike Julia Ben Rachel David Laura Chris Nina Oliver Grace Daniel".split(),
        *("mum", "dad", "grandma", "my sister", "my brother", "my boss", "my teacher", "my cat", "the dog"),
        "my best friend",
    ),
    "place": tuple(
        "London Paris Boston Chicago Sydney Berlin Texas Dublin Toronto Vegas Miami Seattle Rome Manila Leeds".split()
    ),
    "spot": tuple(
        "beach airport office library gym mall station park hospital cinema church pool bank zoo pub garage".split()
    ),
    "time": (
        *("today", "tonight", "tomorrow", "this morning", "this evening", "right now", "on Monday", "on Friday"),
        *("next week", "after work", "before lunch"),
    ),
    "past": ("yesterday", "an hour ago", "last night", "last week", "on Sunday", "two days ago"),
    "hour": ("two", "five", "six", "ten", "midnight", "noon", "three am", "seven am", "nine pm", "eleven pm"),
    "span": tuple("day morning evening night week weekend afternoon month".split()),
    "season": tuple("spring summer autumn winter".split()),
    "thing": tuple(
        "phone laptop car bike hair room camera guitar dress bag jacket garden watch computer printer house job class "
        "homework desk website ticket tattoo bed book".split()
    ),
    "food": tuple("pizza coffee tea cake soup curry pasta sushi salad toast rice chicken chocolate juice".split()),
    "show": tuple("film game concert match trailer episode party news race finale wedding meeting".split()),
    "music": (*"jazz Mozart Coldplay Madonna Prince Queen Elvis Beyonce".split(), "the radio", "the Beatles"),
    "task": (
        *"study work cook drive move run dance shop paint".split(),
        *("go to bed", "wash the car", "clean the kitchen", "write an essay", "feed the cat", "call the bank"),
        "buy milk",
    ),
}
MOODS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # sad, happy
    "mood": (
        tuple("sad tired sick lonely bored angry upset scared miserable worried depressed stressed hungover".split()),
        tuple("happy excited glad proud thankful relaxed cheerful hopeful lucky healthy calm thrilled blessed".split()),
    ),
    "quality": (
        tuple("bad awful terrible horrible boring rubbish lame dreadful pointless annoying".split()),
        tuple("good great awesome amazing lovely brilliant perfect fantastic sweet beautiful".split()),
    ),
    "verb": (("hate", "miss", "fear", "regret"), ("love", "like", "enjoy", "adore")),
    "deed": (
        ("lost the game", "failed my exam", "missed the bus", "broke my phone", "hurt my knee", "burnt the cake"),
        ("won the game", "passed my exam", "caught the bus", "fixed my phone", "found my keys", "finished the cake"),
    ),
    "tail": (
        (":(", ":'(", ":-(", "=(", "D:", "ugh", "#fail", "#sadface", "#tears", "boo"),
        (":)", ":D", ":-)", "=)", "<3", "yay", "#win", "#smile", "#hooray", "woohoo"),
    ),
}


def parts() -> tuple[tuple[list[str], list[int]], ...]:
    """Training, validation and test part: texts, and labels, 1 = happy; the same at every call and everywhere.

    Of any ten messages in a row five are happy, and four are such that the order of the words decides. No two messages
    of all parts have the same words in the same order, and no word is in the validation or the test part only.
    """
    seen: set[tuple[str, ...]] = set()
    known: set[str] = set()
    found = []
    for part, n in enumerate(COUNTS):
        draws = numbers(ONCE, part)
        texts: list[str] = []
        while len(texts) < n:
            i = len(texts)
            text = message("turned" if i // 2 % 5 < 2 else "clear", i % 2, draws)
            words = tuple(text.lower().split())
            mark = tuple(re.findall(r"\w+", text.lower()))
            if mark in seen or len(words) > LONGEST or (part and not known.issuperset(words)):
                continue
            seen.add(mark)
            if not part:
                known.update(words)
            texts.append(text)
        found.append((texts, [i % 2 for i in range(n)]))
    return tuple(found)


def message(kind: str, mood: int, draws: Iterator[float]) -> str:
    """One text, `clear` or `turned`, happy (mood 1) or sad (mood 0)."""
    text = written(kind, mood, GRAMMAR, MOODS, draws)
    if next(draws) < 0.6:  # the others care less about capital letters
        text = re.sub(r"(?:^(?:@\w+ )?|(?<=[.!] ))[a-z]", lambda first: first[0][:-1] + first[0][-1].upper(), text)
    return text
