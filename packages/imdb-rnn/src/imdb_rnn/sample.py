"""Film reviews with no download: written by a small grammar, praise and blame in equal numbers.

A review holds one or two opinions among sentences that tell the plot. In half of the reviews it is enough to count the
words of praise and of blame; in the others these stand side by side, or a negation or a later sentence turns them
around ("I expected a dull film and got a clever one"), so that order counts. Both classes share every sentence frame.
"""

import re
from collections.abc import Iterator

from etude.text.grammar import numbers, written

COUNTS = (2000, 400, 400)  # reviews to train, validate and test
ONCE = 19460720  # the stream that everything is drawn from, once and for all

# See `etude.text.grammar`; the moods are blame and praise.
GRAMMAR: dict[str, tuple[str, ...]] = {
    "review": (
        "{plain+} {plain+}",
        "{fact} {plain+}",
        "{plain+} {fact}",
        "{fact} {plain+} {plain+}",
        "{fact} {plain+} {fact}",
        "{plain+} {fact} {plain+}",
        "{plain+} {turned+}",
        "{turned+} {fact} {plain+}",
        "{turned+} {fact}",
        "{fact} {turned+}",
        "{turned+} {turned+}",
        "{fact} {turned+} {fact}",
    ),
    "fact": (
        "{it} tells the story of {Hero}, {role} from {Place}.",
        "{it} was shot in {Place} in {season}.",
        "we follow {Hero} from {Place}, {role} with a secret.",
        "one day {Hero} meets {role} and leaves {Place}.",
        "{Hero} plays {role} who comes home after the war.",
        "I saw it {company} on {day}.",
        "it is based on a book about {role} from {Place}.",
        "{Hero} wrote the script and also plays {role}.",
        "{Hero} loses {thing} and looks for it in {Place}.",
        "then {role} finds {thing} and the police come.",
    ),
    "plain": (
        "it is {a+} {Film}.",
        "the {aspect} is {adjective+} and the {other} is {adjective+}.",
        "what {a+} {Film}!",
        "I {verb+} the {aspect}, which is {adjective+}.",
        "{Hero} gives {a+} performance and the {aspect} is {adjective+}.",
        "{a+} and {adjective+} {Film} that I {verb+}.",
        "I {verb+} every minute of it.",
        "{company} it was {a+} evening, because the {aspect} is {adjective+}.",
    ),
    "turned": (
        # negation
        "it is not {a-} {Film}.",
        "the {aspect} is never {adjective-} and the {other} is not {adjective-}.",
        "nobody can call this {Film} {adjective-}.",
        "{Hero} is far from {adjective-} here.",
        "there is nothing {adjective-} about the {aspect}.",
        # contrast: the last word, or the main clause, decides
        "the {aspect} is {adjective-}, but the {Film} is {adjective+}.",
        "although the {aspect} is {adjective-}, I {verb+} this {Film}.",
        "I {verb+} this {Film}, although the {aspect} is {adjective-}.",
        "it starts as {a-} {Film} and ends as {a+} one.",
        "it goes from {adjective-} to {adjective+} as soon as {Hero} appears.",
        "I expected {a-} {Film} and got {a+} one.",
        "I got {a+} {Film} where I had expected {a-} one.",
        "it is more {adjective+} than {adjective-}.",
        "it is less {adjective-} than {adjective+}.",
        # a second sentence about the first, with the plot between them
        "the critics call it {adjective-}. {fact} they are wrong.",
        "the critics call it {adjective+}. {fact} they are right.",
        "{company} I had expected {a-} {Film}. {fact} I was wrong.",
        "{company} I had expected {a+} {Film}. {fact} I was right.",
    ),
    "a": ("a {adjective+}", "a really {adjective+}", "a {adjective+}, {adjective+}"),
    "it": ("it", "the {Film}", "this {Film}"),
    "Film": ("film", "movie", "picture", "comedy", "drama", "thriller", "western"),
    "aspect": ("plot", "acting", "music", "dialogue", "camera work"),
    "other": ("ending", "beginning", "script", "humour", "pace"),
    "role": ("a teacher", "a doctor", "a farmer", "a young widow", "an old sailor", "a taxi driver", "a spy"),
    "thing": ("a letter", "the map", "a dog", "the money", "an old photograph", "the key"),
    "season": ("spring", "summer", "autumn", "winter", "the rainy season"),
    "company": ("with my brother", "with two friends", "with my whole family", "all alone", "with my class"),
    "day": ("a Monday", "a Friday night", "my birthday", "a long flight", "a Sunday"),
    "Hero": ("Anna Berg", "Tom Miller", "Ruth Adler", "James Cole", "Lucy Hart", "Peter Novak", "Maria Silva"),
    "Place": ("Boston", "Vienna", "a small village", "the north of Italy", "Chicago", "Dublin"),
}
MOODS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # blame, praise
    "adjective": (
        tuple("bad boring dull awful weak stupid terrible flat clumsy tired lazy predictable".split()),
        tuple("good exciting clever wonderful strong funny brilliant moving graceful fresh sincere original".split()),
    ),
    "verb": (("hated", "disliked", "regretted", "endured"), ("loved", "enjoyed", "admired", "adored")),
}
UNSEEN: dict[str, tuple[str, ...]] = {  # of the test part: no other part has these
    "Film": ("film", "movie", "musical", "documentary", "sequel"),
    "role": ("a teacher", "a doctor", "a violinist", "a retired judge", "a nurse"),
    "thing": ("a letter", "the money", "a suitcase", "the diary"),
    "Hero": ("Helen Grant", "Oscar Lind", "Nora Quinn", "David Stone", "Clara Weiss"),
    "Place": ("Lisbon", "Toronto", "the south of Spain", "Oslo"),
}


def parts() -> tuple[tuple[list[str], list[int]], ...]:
    """Training, validation and test part: texts, and labels with 1 = positive; the same at every call and everywhere.

    No text is in two parts, and none is in one of them twice.
    """
    seen: set[str] = set()
    found = []
    for part, n in enumerate(COUNTS):
        draws = numbers(ONCE, part)
        grammar = GRAMMAR | (UNSEEN if part == 2 else {})
        texts: list[str] = []
        while len(texts) < n:
            text = review(len(texts) % 2, grammar, draws)
            if text not in seen:
                seen.add(text)
                texts.append(text)
        found.append((texts, [i % 2 for i in range(n)]))
    return tuple(found)


def review(mood: int, grammar: dict[str, tuple[str, ...]], draws: Iterator[float]) -> str:
    """One text of praise (mood 1) or blame (mood 0)."""
    text = written("review", mood, grammar, MOODS, draws)
    return re.sub(r"(?:^|(?<=[.!] ))[a-z]", lambda first: first[0].upper(), text)
