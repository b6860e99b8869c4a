"""The sample: its size, its form, its Russian as far as a program can judge it, and whether it is worth learning."""

import re
import subprocess
import sys
import time
import zlib
from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest

from lstm_pos import data, sample

DOCUMENTS = list(sample.documents())
SENTENCES = [tokens for document in DOCUMENTS for tokens in document]
TOKENS = [token for tokens in SENTENCES for token in tokens]
TEXTS = [sample.written(tokens) for tokens in SENTENCES]
CRC = 4292135061


def pairs(feats):
    return {} if feats == "_" else dict(pair.split("=") for pair in feats.split("|"))


def tags_of(form):
    return Counter(tag for word, tag, _ in TOKENS if word.lower() == form)


def test_the_size_of_everything():
    assert len(DOCUMENTS) == 500 and len(SENTENCES) == 4000 and len(set(TEXTS)) == 4000
    lengths = [len(tokens) for tokens in SENTENCES]
    assert min(lengths) >= 3 and max(lengths) <= 40 and 7 < np.mean(lengths) < 9


def test_the_same_everywhere():
    # written down on Python 3.11, x86-64: a change of the grammar changes every published result
    assert zlib.crc32(sample.text()) == CRC
    program = "import zlib; from lstm_pos import sample; print(zlib.crc32(sample.text()))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout == f"{CRC}\n"


def test_the_form_of_nerus():
    """Line by line, as in https://github.com/natasha/nerus"""
    document = number = 0
    for line in sample.text().decode().splitlines()[:5000]:
        if line.startswith("# newdoc"):
            assert line == f"# newdoc id = {document}"
            document, number = document + 1, 0
        elif line.startswith("# sent_id"):
            assert line == f"# sent_id = {document - 1}_{number}"
            number, word = number + 1, 0
        elif line.startswith("# text"):
            assert line == f"# text = {TEXTS[(document - 1) * sample.SENTENCES + number - 1]}"
            heads = []
        elif line:
            word += 1
            n, form, lemma, tag, xpos, feats, head, relation, deps, misc = line.split("\t")
            assert (n, lemma, xpos, deps, misc) == (str(word), "_", "_", "_", "Tag=O")
            assert form and tag.isupper() and relation and feats == "|".join(sorted(feats.split("|")))
            heads.append(int(head))
        else:
            assert heads.count(0) == 1 and all(0 <= head <= word and head != i for i, head in enumerate(heads, 1))


def test_it_is_russian():
    for text in TEXTS:
        assert re.fullmatch(r"«?[А-Я][а-я]*[А-Яа-я0-9 ,.!?«»—%-]*[.!?]", text), text
        assert not re.search(r" [,.!?»]|«|  ", text[1:]) and "ё" not in text, text
        assert not re.search(r"\b[Оо] [аеиоуэ]", text), text  # would be об


def test_the_tags_are_those_of_nerus():
    assert {tag for _, tag, _ in TOKENS} == set(
        "NOUN VERB ADJ PUNCT ADP PRON ADV CCONJ PROPN PART DET SCONJ NUM AUX SYM INTJ".split()
    )
    known = set(
        "Animacy Aspect Case Degree Gender Mood NumForm Number Person Polarity Tense Variant VerbForm Voice".split()
    )
    assert {name for _, _, feats in TOKENS for name in pairs(feats)} == known


def test_what_stands_together_agrees():
    """Adjectives and pronouns with the noun that follows; what a preposition governs."""
    cases = {"в": {"Loc", "Acc"}, "на": {"Loc", "Acc"}, "из": {"Gen"}, "у": {"Gen"}, "о": {"Loc"}, "без": {"Gen"}}
    cases |= {"для": {"Gen"}, "после": {"Gen"}, "вместо": {"Gen"}, "благодаря": {"Dat"}, "перед": {"Ins"}}
    agreeing = governed = 0
    for tokens in SENTENCES:
        for (form, tag, feats), (_, next_tag, next_feats) in pairwise(tokens):
            mine, other = pairs(feats), pairs(next_feats)
            if (
                tag in ("ADJ", "DET")
                and "Case" in mine
                and "Variant" not in mine
                and next_tag in ("NOUN", "PROPN", "ADJ")
            ):
                agreeing += 1
                assert all(
                    mine[name] == other.get(name, mine[name]) for name in ("Case", "Number", "Gender") if name in mine
                )
            if tag == "ADP" and form.lower() in cases and "Case" in other:
                governed += 1
                assert other["Case"] in cases[form.lower()], tokens
    assert agreeing > 2000 and governed > 1000


def test_subject_and_verb_agree():
    """A nominative that stands right before a finite verb is its subject here."""
    found = 0
    for tokens in SENTENCES:
        for (_, tag, feats), (_, next_tag, next_feats) in pairwise(tokens):
            mine, act = pairs(feats), pairs(next_feats)
            if tag in ("NOUN", "PROPN") and mine["Case"] == "Nom" and next_tag in ("VERB", "AUX") and "Number" in act:
                found += 1
                assert mine["Number"] == act["Number"] and act.get("Gender", mine["Gender"]) == mine["Gender"], tokens
                assert act.get("Person", "3") == "3"
    assert found > 1000


def declension(word, animate=False):
    forms = sample.noun(word, animate).forms
    return " ".join(forms["Sing", case] for case in sample.CASES), " ".join(
        forms["Plur", case] for case in sample.CASES
    )


@pytest.mark.parametrize(
    ("word", "singular", "plural"),
    [
        ("завод", "завод завода заводу завод заводом заводе", "заводы заводов заводам заводы заводами заводах"),
        ("парк", "парк парка парку парк парком парке", "парки парков паркам парки парками парках"),
        ("ключ", "ключ ключа ключу ключ ключом ключе", "ключи ключей ключам ключи ключами ключах"),
        ("отель", "отель отеля отелю отель отелем отеле", "отели отелей отелям отели отелями отелях"),
        ("музей", "музей музея музею музей музеем музее", "музеи музеев музеям музеи музеями музеях"),
        ("сценарий", "сценарий сценария сценарию сценарий сценарием сценарии",
         "сценарии сценариев сценариям сценарии сценариями сценариях"),
        ("школа", "школа школы школе школу школой школе", "школы школ школам школы школами школах"),
        ("книга", "книга книги книге книгу книгой книге", "книги книг книгам книги книгами книгах"),
        ("лодка", "лодка лодки лодке лодку лодкой лодке", "лодки лодок лодкам лодки лодками лодках"),
        ("чашка", "чашка чашки чашке чашку чашкой чашке", "чашки чашек чашкам чашки чашками чашках"),
        ("задача", "задача задачи задаче задачу задачей задаче", "задачи задач задачам задачи задачами задачах"),
        ("улица", "улица улицы улице улицу улицей улице", "улицы улиц улицам улицы улицами улицах"),
        ("станция", "станция станции станции станцию станцией станции",
         "станции станций станциям станции станциями станциях"),
        ("тетрадь:f", "тетрадь тетради тетради тетрадь тетрадью тетради",
         "тетради тетрадей тетрадям тетради тетрадями тетрадях"),
        ("вещь:f", "вещь вещи вещи вещь вещью вещи", "вещи вещей вещам вещи вещами вещах"),
        ("правило", "правило правила правилу правило правилом правиле",
         "правила правил правилам правила правилами правилах"),
        ("здание", "здание здания зданию здание зданием здании", "здания зданий зданиям здания зданиями зданиях"),
    ],
)  # fmt: skip
def test_nouns(word, singular, plural):
    assert declension(word) == (singular, plural)


def test_animate_nouns():
    assert declension("врач", True)[0].split()[3] == "врача" and declension("врач", True)[1].split()[3] == "врачей"
    assert declension("певица", True)[0].split()[3] == "певицу" and declension("певица", True)[1].split()[3] == "певиц"


@pytest.mark.parametrize(
    ("word", "masculine", "feminine", "neuter", "plural"),
    [
        ("новый", "новый нового новому новый новым новом", "новая новой новой новую новой новой", "новое", "новых"),
        ("большой", "большой большого большому большой большим большом",
         "большая большой большой большую большой большой", "большое", "больших"),
        ("тихий", "тихий тихого тихому тихий тихим тихом", "тихая тихой тихой тихую тихой тихой", "тихое", "тихих"),
        ("хороший", "хороший хорошего хорошему хороший хорошим хорошем",
         "хорошая хорошей хорошей хорошую хорошей хорошей", "хорошее", "хороших"),
        ("синий", "синий синего синему синий синим синем", "синяя синей синей синюю синей синей", "синее", "синих"),
    ],
)  # fmt: skip
def test_adjectives(word, masculine, feminine, neuter, plural):
    def forms(noun):
        return " ".join(sample.adjective(word, sample.noun(noun), case, "Sing")[0] for case in sample.CASES)

    assert (forms("завод"), forms("школа")) == (masculine, feminine)
    assert forms("правило").split()[0] == forms("правило").split()[3] == neuter
    assert sample.adjective(word, sample.noun("врач", True), "Acc", "Plur")[0] == plural
    assert sample.adjective(word, sample.noun("врач", True), "Acc", "Sing")[0] == masculine.split()[1]


@pytest.mark.parametrize(
    ("entry", "now", "past"),
    [
        ("читать", "читаю читаешь читает читаем читаете читают", "читал читала читали"),
        ("рисовать", "рисую рисуешь рисует рисуем рисуете рисуют", "рисовал рисовала рисовали"),
        ("писать:пишу:пишут", "пишу пишешь пишет пишем пишете пишут", "писал писала писали"),
        ("чинить:чиню:чинят", "чиню чинишь чинит чиним чините чинят", "чинил чинила чинили"),
        ("учиться:учу:учат", "учусь учишься учится учимся учитесь учатся", "учился училась учились"),
    ],
)
def test_verbs(entry, now, past):
    verb = sample.verb(entry, "Imp")
    persons = [sample.Subject([], "Masc", number, person) for number in ("Sing", "Plur") for person in (1, 2, 3)]
    assert " ".join(sample.conjugated(verb, "now", subject)[0] for subject in persons) == now
    three = [sample.Subject([], *which) for which in (("Masc", "Sing"), ("Fem", "Sing"), ("", "Plur"))]
    assert " ".join(sample.conjugated(verb, "past", subject)[0] for subject in three) == past


def test_forms_that_only_the_context_decides():
    for form, tags in {
        "стали": {"VERB", "NOUN"},
        "мой": {"DET", "VERB"},
        "печь": {"VERB", "NOUN"},
        "что": {"SCONJ", "PRON"},
        "уже": {"ADV", "ADJ"},
        "и": {"CCONJ", "PART"},
        "пила": {"VERB", "NOUN"},
        "три": {"NUM", "VERB"},
        "его": {"DET", "PRON"},
        "ее": {"DET", "PRON"},
        "их": {"DET", "PRON"},
        "больной": {"ADJ", "NOUN"},
        "рабочий": {"ADJ", "NOUN"},
        "все": {"DET", "PRON"},
        "роман": {"NOUN", "PROPN"},
        "вера": {"NOUN", "PROPN"},
        "вокруг": {"ADV", "ADP"},
    }.items():
        counts = tags_of(form)
        assert set(counts) == tags and min(counts.values()) >= 5, (form, counts)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_dictionary_is_not_enough(seed):
    """The test part has stems that training never shows, and a word's most frequent tag is often wrong."""
    got = data.load("sample", seed)
    counts = defaultdict(Counter)
    for i in got.train:
        for word, tag in zip(*got.corpus.sentence(i), strict=True):
            counts[word.lower()][tag] += 1
    stems = {word[:6] for word in counts}
    right = unseen = new = total = 0
    for i in got.test:
        for word, tag in zip(*got.corpus.sentence(i), strict=True):
            total += 1
            known = counts.get(word.lower())
            unseen += known is None
            new += word.lower()[:6] not in stems
            right += tag == (known.most_common(1)[0][0] if known else "NOUN")
    assert 0.06 < unseen / total < 0.15 and new / total > 0.01
    assert 0.85 < right / total < 0.95


def test_it_is_quick():
    times = []
    for _ in range(3):
        start = time.process_time()
        sample.text()
        times.append(time.process_time() - start)
    assert min(times) < 1
