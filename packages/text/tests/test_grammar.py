import re
from itertools import islice

from etude.text.grammar import numbers, written

RULES = {
    "tale": ("{Hero} {verb+} a {thing}, then {Hero} {verb-} a {thing}",),
    "Hero": ("Ann", "Bob"),
    "thing": ("egg", "car"),
}
MOODS = {"verb": (("lost", "broke"), ("found", "made"))}


def test_a_text_keeps_its_hero_turns_its_mood_and_says_nothing_twice():
    draws, found = numbers(7), set()
    for n in range(200):
        text = written("tale", n % 2, RULES, MOODS, draws)
        parts = re.fullmatch(r"(Ann|Bob) (\w+) (an egg|a car), then (Ann|Bob) (\w+) (an egg|a car)", text)
        assert parts, text
        assert parts[1] == parts[4] and parts[3] != parts[6]
        assert parts[2] in MOODS["verb"][n % 2] and parts[5] in MOODS["verb"][1 - n % 2]
        found.add(text)
    assert len(found) == 2 * 2 * 2 * 4


def test_numbers_are_a_function_of_the_stream():
    a, b, other = (list(islice(numbers(*parts), 100_000)) for parts in ((1, 2), (1, 2), (1, 3)))
    assert a == b != other
    assert 0 <= min(a) < 1e-3 and 0.999 < max(a) < 1 and 0.49 < sum(a) / len(a) < 0.51
