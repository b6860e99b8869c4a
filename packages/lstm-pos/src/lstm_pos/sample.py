"""Russian sentences with no download, tagged in the form of Nerus: written by a small grammar with real agreement.

Words are inflected by the tables below; `Writer` knows what governs and what agrees. Two things make this more than a
dictionary. Each document has words of its own (a surname, a town and its adjective, two compound nouns), so that a test
document shows stems that training never had, and only their endings tell what they are. And some forms have two tags
(стали, мой, печь, что, уже, его, ...), so that only the words around them tell.

The letter ё is not used, as in most newspapers. Heads are no parse: every word hangs on the root.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, product
from typing import TypeVar

import numpy as np

from etude.draw import shuffled, uniform

DOCUMENTS = 500
SENTENCES = 8  # in each
ONCE = 19391117  # the stream that everything is drawn from, once and for all

Token = tuple[str, str, str]  # form, UPOS, FEATS
T = TypeVar("T")

CASES = ("Nom", "Gen", "Dat", "Acc", "Ins", "Loc")
# Endings of the six cases, singular and plural; - is none, * as the genitive if animate, else as the nominative.
NOUNS = {
    "m": ("Masc", "- а у * ом е", "ы ов ам * ами ах"),  # завод
    "mк": ("Masc", "- а у * ом е", "и ов ам * ами ах"),  # парк
    "mч": ("Masc", "- а у * ом е", "и ей ам * ами ах"),  # врач
    "mь": ("Masc", "ь я ю * ем е", "и ей ям * ями ях"),  # водитель
    "mй": ("Masc", "й я ю * ем е", "и ев ям * ями ях"),  # музей
    "mий": ("Masc", "й я ю * ем и", "и ев ям * ями ях"),  # санаторий
    "f": ("Fem", "а ы е у ой е", "ы - ам * ами ах"),  # школа
    "fк": ("Fem", "а и е у ой е", "и - ам * ами ах"),  # аптека
    "fок": ("Fem", "ка ки ке ку кой ке", "ки ок кам * ками ках"),  # лодка
    "fек": ("Fem", "ка ки ке ку кой ке", "ки ек кам * ками ках"),  # чашка
    "fч": ("Fem", "а и е у ей е", "и - ам * ами ах"),  # дача
    "fц": ("Fem", "а ы е у ей е", "ы - ам * ами ах"),  # улица
    "fя": ("Fem", "я и е ю ей е", "и ь ям * ями ях"),  # неделя
    "fия": ("Fem", "я и и ю ей и", "и й ям * ями ях"),  # станция
    "fь": ("Fem", "ь и и ь ью и", "и ей ям * ями ях"),  # тетрадь
    "fчь": ("Fem", "ь и и ь ью и", "и ей ам * ами ах"),  # вещь
    "n": ("Neut", "о а у о ом е", "а - ам * ами ах"),  # правило
    "nие": ("Neut", "е я ю е ем и", "я й ям * ями ях"),  # здание
    # surnames: -ов and -ин, -ский, -енко
    "mов": ("Masc", "- а у * ым е", "ы ых ым * ыми ых"),
    "fов": ("Fem", "а ой ой у ой ой", "ы ых ым * ыми ых"),
    "mский": ("Masc", "ий ого ому * им ом", "ие их им * ими их"),
    "fская": ("Fem", "ая ой ой ую ой ой", "ие их им * ими их"),
    "mенко": ("Masc", "о о о о о о", "о о о о о о"),
    "fенко": ("Fem", "о о о о о о", "о о о о о о"),
}
# Endings of the masculine, the neuter nominative, the feminine, and the plural.
ADJECTIVES = {
    "ый": ("ый ого ому * ым ом", "ое", "ая ой ой ую ой ой", "ые ых ым * ыми ых"),  # новый
    "ой": ("ой ого ому * ым ом", "ое", "ая ой ой ую ой ой", "ые ых ым * ыми ых"),  # простой
    "кий": ("ий ого ому * им ом", "ое", "ая ой ой ую ой ой", "ие их им * ими их"),  # тихий
    "кой": ("ой ого ому * им ом", "ое", "ая ой ой ую ой ой", "ие их им * ими их"),  # большой
    "ший": ("ий его ему * им ем", "ее", "ая ей ей ую ей ей", "ие их им * ими их"),  # хороший
    "ний": ("ий его ему * им ем", "ее", "яя ей ей юю ей ей", "ие их им * ими их"),  # синий
    "мой": ("й его ему * им ем", "е", "я ей ей ю ей ей", "и их им * ими их"),
    "наш": ("- его ему * им ем", "е", "а ей ей у ей ей", "и их им * ими их"),
    "этот": ("от ого ому * им ом", "о", "а ой ой у ой ой", "и их им * ими их"),
    "который": ("ый ого ому * ым ом", "ое", "ая ой ой ую ой ой", "ые ых ым * ыми ых"),
    "какой": ("ой ого ому * им ом", "ое", "ая ой ой ую ой ой", "ие их им * ими их"),
}

PEOPLE = """студент инженер артист журналист адвокат депутат пилот капитан режиссер министр тренер спортсмен врач
    писатель строитель водитель житель зритель хирург физик химик художник охотник моряк школьник ученик чиновник
    механик мальчик герой студентка артистка журналистка соседка девочка бабушка актриса женщина учительница певица
    балерина""".split()
ANIMALS = (
    """кот слон тигр жираф верблюд волк бык медведь голубь собака кошка корова птица ворона коза белочка""".split()
)
THINGS = """стол шкаф прибор телефон компьютер билет чемодан экран карандаш ключ словарь портфель рюкзак ящик лампа
    машина карта картина монета ваза коробка лодка сумка тарелка бутылка чашка рубашка зеркало одеяло тетрадь:f
    вещь:f инструмент велосипед фотография""".split()
TEXTS = """роман рассказ журнал доклад отчет документ учебник книга газета повесть:f сценарий заявление сообщение
    договор рукопись:f инструкция""".split()
IN = """центр театр институт университет магазин ресторан кабинет парк музей санаторий отель школа комната квартира
    аптека библиотека больница гостиница столица лаборатория редакция общежитие здание министерство агентство""".split()
ON = """завод вокзал стадион концерт урок площадь:f улица фабрика выставка остановка станция конференция лекция
    собрание заседание дача встреча""".split()
IDEAS = """вопрос проект план закон проблема программа ошибка история новость:f возможность:f задача решение
    предложение правило событие изменение сложность:f""".split()
MATERIALS = "сталь:f стекло бумага золото пластик гранит мрамор бетон".split()
COMPOUNDS = "авто радио теле видео фото мото кино био агро эко электро гидро аэро метео мини супер спец тепло".split()
COMPOUND_PLACES = "центр театр парк клуб школа лаборатория студия база музей салон комплекс фирма".split()
COMPOUND_THINGS = "прибор аппарат система сигнал материал установка модель:f устройство камера панель:f датчик".split()

ADJECTIVES_OF = {  # what is said of people, things, places, ideas
    "people": """молодой старый умный известный сильный талантливый веселый опытный честный московский строгий тихий
        русский хороший знаменитый высокий""".split(),
    "things": """новый старый красивый красный белый черный зеленый удобный тяжелый нужный большой дорогой простой
        маленький редкий легкий хороший синий последний""".split(),
    "places": """новый старый современный центральный красивый известный большой городской родной маленький тихий
        московский соседний ближайший""".split(),
    "ideas": """новый важный интересный скучный трудный полезный странный серьезный главный простой легкий редкий
        хороший последний следующий""".split(),
}
NUMERALS = "двух трех четырех пяти шести семи восьми девяти десяти одно много".split()
SIZES = "этажный комнатный ярусный местный".split()  # двухэтажный
SHADES = "темно- светло- бледно- ярко- нежно- грязно-".split()
COLOURS = "синий зеленый красный желтый серый голубой розовый коричневый фиолетовый оранжевый бурый лиловый".split()

ROOTS = """Ветр Берез Сосн Гром Мороз Камен Лебед Ворон Сокол Голуб Медвед Волк Лис Бобр Карп Щук Окун Ерш Дуб Клен
    Вишн Калин Рябин Малин Смород Крапив Мельник Кузнец Плотник Бондар Гончар Рыбак Пастух Пахар Косар Степан Иван
    Петр Павл Семен Федор Егор Захар Макар Назар Архип Осип Антип Филип Тарас Богдан Демид Лукьян Касьян Ульян
    Емельян Кирьян Мартын Трофим Максим Ефим Аким Вавил Данил Гаврил Кирил Михайл Черн Бел Красн Зелен Син Сер Рыж
    Сед Кудр Усат Голов Нос Глаз Горб Полет Залес Зареч Озер Болот Полян Луг Берег""".split()
SURNAMES = {
    "ов": ("mов", "fов"),
    "ин": ("mов", "fов"),
    "ушкин": ("mов", "fов"),
    "овск": ("mский", "fская"),
    "инск": ("mский", "fская"),
    "енк": ("mенко", "fенко"),
}
FAMILIAR = "Смирнов Попов Соколов Новиков Морозов Орлов Зайцев Лебедев Никитин Сорокин Васильев Гусев".split()
HILLS = "Красно Ново Верхне Нижне Старо Бело Черно Зелено Светло Велико Средне Право Лево Мало".split()
RIVERS = (
    "горск реченск донск уральск камск морск польск каменск ключинск борск дольск волжск лесск двинск невск".split()
)
MEN = "Иван Антон Борис Виктор Денис Максим Олег Сергей Андрей Алексей Игорь Роман".split()
WOMEN = "Анна Ирина Елена Светлана Ольга Вера Нина Мария Наталия Надежда".split()

# The infinitive, with the first person singular and the third person plural where it is not like читать or рисовать.
# Imperfective verbs, then perfective ones, by what their object is.
VERBS = {
    "texts": (
        """читать изучать обсуждать публиковать покупать получать писать:пишу:пишут искать:ищу:ищут редактировать
        переводить:перевожу:переводят цитировать""",
        """прочитать написать:напишу:напишут изучить:изучу:изучат обсудить:обсужу:обсудят опубликовать
        купить:куплю:купят получить:получу:получат потерять отредактировать процитировать""",
    ),
    "things": (
        """покупать выбирать проверять собирать рисовать использовать ремонтировать чинить:чиню:чинят
        искать:ищу:ищут фотографировать тестировать упаковывать""",
        """купить:куплю:купят выбрать:выберу:выберут проверить:проверю:проверят собрать:соберу:соберут нарисовать
        отремонтировать починить:починю:починят потерять сломать подарить:подарю:подарят показать:покажу:покажут
        сфотографировать протестировать""",
    ),
    "people": (
        """встречать ждать:жду:ждут любить:люблю:любят знать спрашивать слушать уважать понимать критиковать
        консультировать""",
        """встретить:встречу:встретят увидеть:увижу:увидят поблагодарить:поблагодарю:поблагодарят узнать
        пригласить:приглашу:пригласят спросить:спрошу:спросят послушать проконсультировать раскритиковать""",
    ),
    "ideas": (
        """обсуждать решать изучать предлагать анализировать планировать комментировать готовить:готовлю:готовят
        формулировать""",
        """обсудить:обсужу:обсудят подготовить:подготовлю:подготовят предложить:предложу:предложат проанализировать
        запланировать прокомментировать сформулировать""",
    ),
    "being": (
        """работать отдыхать гулять выступать жить:живу:живут сидеть:сижу:сидят стоять:стою:стоят завтракать ужинать
        учиться:учу:учат тренироваться фотографироваться""",
        "",
    ),
    "coming": (
        "",
        """приехать:приеду:приедут уехать:уеду:уедут прилететь:прилечу:прилетят вернуться:верну:вернут
        отправиться:отправлю:отправят""",
    ),
    "saying": (
        "думать знать считать говорить:говорю:говорят понимать утверждать",
        """сказать:скажу:скажут сообщить:сообщу:сообщат заявить:заявлю:заявят рассказать:расскажу:расскажут
        объяснить:объясню:объяснят""",
    ),
    "trying": ("любить:люблю:любят пытаться планировать продолжать начинать обещать", ""),
}
PARTICIPLES = {  # of passive perfective verbs, short, and what has that done to it
    "texts": "написан опубликован прочитан проверен получен",
    "things": "куплен продан починен собран сломан потерян",
    "ideas": "подготовлен предложен изучен принят",
}
HOW = "быстро медленно внимательно часто редко иногда снова долго спокойно охотно тщательно молча".split()
WHEN = "вчера однажды недавно утром вечером осенью зимой давно".split()
SHORT = "готов рад обязан должен способен".split()
SHORT_STEMS = {"должен": "должн", "способен": "способн"}
COMPARATIVES = "новее старее красивее удобнее тяжелее нужнее дороже проще легче лучше больше меньше".split()
IMPERATIVES = "Покажите Купите Проверьте Выберите Нарисуйте Соберите Почините".split()
OF_PLURAL = "пять шесть семь восемь девять десять двадцать сто".split()
PRONOUNS = {  # nominative, genitive and accusative, dative, instrumental; gender, number, person
    "я": ("я меня мне мной", "", "Sing", 1),
    "ты": ("ты тебя тебе тобой", "", "Sing", 2),
    "он": ("он его ему им", "Masc", "Sing", 3),
    "она": ("она ее ей ей", "Fem", "Sing", 3),
    "мы": ("мы нас нам нами", "", "Plur", 1),
    "вы": ("вы вас вам вами", "", "Plur", 2),
    "они": ("они их им ими", "", "Plur", 3),
}


def feats(**values: str) -> str:
    """In the alphabetical order of UD; empty values are left out."""
    return "|".join(f"{name}={value}" for name, value in sorted(values.items()) if value) or "_"


@dataclass(frozen=True)
class Noun:
    tag: str
    gender: str
    animacy: str
    forms: dict[tuple[str, str], str]  # (number, case) -> form

    def token(self, case: str, number: str = "Sing") -> Token:
        tags = feats(Animacy=self.animacy, Case=case, Gender=self.gender, Number=number)
        return self.forms[number, case], self.tag, tags


@dataclass(frozen=True)
class Verb:
    aspect: str
    infinitive: str
    first: str  # person singular
    third: str  # person plural


@dataclass(frozen=True)
class Subject:
    """What a verb agrees with."""

    tokens: list[Token]
    gender: str
    number: str
    person: int = 3


def declined(stem: str, endings: str, animate: bool) -> list[str]:
    forms = ["" if ending == "-" else ending for ending in endings.split()]
    forms[3] = forms[animate] if forms[3] == "*" else forms[3]
    return [stem + form for form in forms]


def kind_of(word: str) -> str:
    """The table that inflects a noun, by its last letters; -ь is masculine unless marked `:f`."""
    word, _, gender = word.partition(":")
    end, before = word[-1], word[-2]
    if end == "ь":
        return "mь" if not gender else "fчь" if before in "жшчщ" else "fь"
    if end == "а":
        if before == "к" and word[-3] not in "аеиоуыэюя":
            return "fек" if word[-3] in "жшч" else "fок"
        return "fк" if before in "кгх" else "fч" if before in "жшчщ" else "fц" if before == "ц" else "f"
    if end in "яе":
        return {"ия": "fия", "ие": "nие"}.get(word[-2:], "fя")
    if end == "й":
        return "mий" if before == "и" else "mй"
    return "n" if end == "о" else "mк" if end in "кгх" else "mч" if end in "жшчщ" else "m"


def noun(word: str, animate: bool = False, tag: str = "NOUN", kind: str = "") -> Noun:
    kind = kind or kind_of(word)
    gender, *endings = NOUNS[kind]
    nominative = endings[0].split()[0].strip("-")
    stem = word.partition(":")[0].removesuffix(nominative)
    forms = {
        (number, case): form
        for number, ending in zip(("Sing", "Plur"), endings, strict=True)
        for case, form in zip(CASES, declined(stem, ending, animate), strict=True)
    }
    return Noun(tag, gender, "Anim" if animate else "Inan", forms)


def adjective(word: str, of: Noun, case: str, number: str, tag: str = "ADJ", kind: str = "") -> Token:
    """A word that agrees with the noun; that of a pronoun says its `kind` in ADJECTIVES."""
    if not kind:
        end, before = word[-2:], word[-3]
        soft = "кий" if before in "кгх" else "ший" if before in "шжчщ" else "ний"
        kind = "ый" if end == "ый" else soft if end == "ий" else "кой" if before in "кгхш" else "ой"
    masculine, neuter, feminine, plural = ADJECTIVES[kind]
    stem = word.removesuffix(masculine.split()[0].strip("-"))
    at = CASES.index(case)
    animate = of.animacy == "Anim"
    if number == "Plur":
        form = declined(stem, plural, animate)[at]
    elif of.gender == "Fem":
        form = declined(stem, feminine, animate)[at]
    elif of.gender == "Neut" and case in ("Nom", "Acc"):
        form = stem + neuter
    else:
        form = declined(stem, masculine, animate)[at]
    tags = {"Case": case, "Gender": of.gender if number == "Sing" else "", "Number": number}
    if case == "Acc" and (number == "Plur" or of.gender != "Fem"):
        tags["Animacy"] = of.animacy
    if tag == "ADJ":
        tags["Degree"] = "Pos"
    return form, tag, feats(**tags)


def verb(entry: str, aspect: str) -> Verb:
    infinitive, *given = entry.split(":")
    base = infinitive.removesuffix("ся")
    if not given:
        stem = base[:-5] + "у" if base.endswith("овать") else base[:-2]
        given = [stem + "ю", stem + "ют"]
    return Verb(aspect, infinitive, *given)


def conjugated(v: Verb, how: str, subject: Subject | None = None) -> Token:
    """`how`: past, now (present, or future if perfective), inf, conv."""
    middle = v.infinitive.endswith("ся")
    base = v.infinitive.removesuffix("ся")
    tags = {"Aspect": v.aspect, "Voice": "Mid" if middle else "Act"}
    if how == "inf":
        form = base
        tags["VerbForm"] = "Inf"
    elif how == "conv":
        perfect = v.aspect == "Perf"
        present = v.third[:-2] + ("а" if v.third[-3] in "жшчщ" else "я")
        form = base[:-2] + ("вш" + "и" if middle else "в") if perfect else present
        tags |= {"VerbForm": "Conv", "Tense": "Past" if perfect else "Pres"}
    elif how == "past":
        assert subject
        plural = subject.number == "Plur"
        form = base[:-2] + ("ли" if plural else {"Masc": "л", "Fem": "ла", "Neut": "ло"}[subject.gender])
        tags |= {"Gender": "" if plural else subject.gender, "Number": subject.number, "Tense": "Past"}
        tags |= {"Mood": "Ind", "VerbForm": "Fin"}
    else:
        assert subject
        vowel = "е" if v.third[-2] in "ую" else "и"
        ends = {("Sing", 2): "шь", ("Sing", 3): "т", ("Plur", 1): "м", ("Plur", 2): "те"}
        which = subject.number, subject.person
        form = {("Sing", 1): v.first, ("Plur", 3): v.third}.get(which) or v.third[:-2] + vowel + ends[which]
        tags |= {"Number": subject.number, "Person": str(subject.person), "Mood": "Ind", "VerbForm": "Fin"}
        tags["Tense"] = "Fut" if v.aspect == "Perf" else "Pres"
    if middle:
        form += "сь" if form[-1] in "аеиоуыэюя" else "ся"
    return form, "VERB", feats(**tags)


def fixed(text: str) -> list[Token]:
    """Words that are not inflected, `form/TAG` or `form/TAG/FEATS`; a particle, say."""
    tokens = []
    for word in text.split():
        form, tag, tags = (*word.split("/"), "")[:3]
        known = {"ADV": "Degree=Pos", "PUNCT": "_"}.get(tag, "_")
        if form == "не":
            known = "Polarity=Neg"
        if form in ("чтобы", "бы"):
            known = "Mood=Cnd"
        tokens.append((form, tag, tags or known))
    return tokens


STOP, COMMA, DASH = fixed("./PUNCT"), fixed(",/PUNCT"), fixed("—/PUNCT")
PAST_PLURAL = "Aspect=Perf|Mood=Ind|Number=Plur|Tense=Past|VerbForm=Fin|Voice=Act"
INFINITIVE = "Aspect=Imp|VerbForm=Inf|Voice=Act"
ORDER = "Aspect=Imp|Mood=Imp|Number=Sing|Person=2|VerbForm=Fin|Voice=Act"
THERE_IS = "Aspect=Imp|Mood=Ind|Number=Sing|Person=3|Tense=Pres|VerbForm=Fin|Voice=Act"


@dataclass(frozen=True)
class Lexicon:
    """Everything of which a document gets some that no other has, in a drawn order, and all else, inflected."""

    surnames: list[tuple[Noun, Noun]]  # of men, of women
    towns: list[Noun]
    town_adjectives: list[str]
    own_places: list[Noun]
    own_things: list[Noun]
    familiar: list[tuple[Noun, Noun]]
    men: list[Noun]
    women: list[Noun]
    nouns: dict[str, list[Noun]]
    verbs: dict[str, tuple[list[Verb], list[Verb]]]
    sizes: list[str]
    shades: list[str]


def lexicon() -> Lexicon:
    def drawn(things: list[tuple[str, str]], stream: int) -> list[tuple[str, str]]:
        order = shuffled(len(things), ONCE, stream)
        return [things[i] for i in order[:DOCUMENTS]]

    def people(stem: str, kinds: tuple[str, str]) -> tuple[Noun, Noun]:
        man, woman = (noun(stem + NOUNS[kind][1].split()[0].strip("-"), True, "PROPN", kind) for kind in kinds)
        return man, woman

    surnames = drawn(list(product(ROOTS, SURNAMES)), 0)
    towns = [(hill + river, hill.lower() + river + "ий") for hill, river in product(HILLS, RIVERS)]
    towns += [(hill + "град", hill.lower() + "градский") for hill in HILLS]
    towns += [(root + "ово", root.lower() + "овский") for root in ROOTS]
    towns += [(root + "ино", root.lower() + "инский") for root in ROOTS]
    towns += [(root + "овка", root.lower() + "овский") for root in ROOTS]
    towns = drawn(towns, 1)
    places = drawn(list(product(COMPOUNDS, COMPOUND_PLACES)), 2)
    things = drawn(list(product(COMPOUNDS, COMPOUND_THINGS)), 3)
    nouns = {"people": PEOPLE, "animals": ANIMALS, "things": THINGS, "texts": TEXTS, "in": IN, "on": ON, "ideas": IDEAS}
    return Lexicon(
        surnames=[people(root + suffix, SURNAMES[suffix]) for root, suffix in surnames],
        towns=[noun(town, tag="PROPN") for town, _ in towns],
        town_adjectives=[word for _, word in towns],
        own_places=[noun(first + second) for first, second in places],
        own_things=[noun(first + second) for first, second in things],
        familiar=[people(name, ("mов", "fов")) for name in FAMILIAR],
        men=[noun(name, True, "PROPN") for name in MEN],
        women=[noun(name, True, "PROPN") for name in WOMEN],
        nouns={name: [noun(word, name in ("people", "animals")) for word in words] for name, words in nouns.items()}
        | {"materials": [noun(word) for word in MATERIALS]},
        verbs={
            name: (
                [verb(entry, "Imp") for entry in imperfective.split()],
                [verb(entry, "Perf") for entry in perfective.split()],
            )
            for name, (imperfective, perfective) in VERBS.items()
        },
        sizes=[number + size for number, size in product(NUMERALS, SIZES)],
        shades=[shade + colour for shade, colour in product(SHADES, COLOURS)],
    )


class Writer:
    """Writes the sentences of one document. A method that begins with `s_` writes a sentence, less its capital."""

    def __init__(self, words: Lexicon, document: int) -> None:
        self.words = words
        self.draws = numbers(document)
        self.surname = words.surnames[document % len(words.surnames)]
        self.town = words.towns[document % len(words.towns)]
        self.town_adjective = words.town_adjectives[document % len(words.towns)]
        self.own_place = words.own_places[document % len(words.own_places)]
        self.own_thing = words.own_things[document % len(words.own_things)]

    def sentence(self) -> list[Token]:
        tokens = self.pick(SENTENCE_KINDS)(self)
        form, tag, tags = tokens[0]
        if form in "«—":
            form, tag, tags = tokens[1]
            return [tokens[0], (form[0].upper() + form[1:], tag, tags), *tokens[2:]]
        return [(form[0].upper() + form[1:], tag, tags), *tokens[1:]]

    # --- drawing

    def pick(self, choices: Sequence[T]) -> T:
        return choices[int(next(self.draws) * len(choices))]

    def chance(self, p: float) -> bool:
        return next(self.draws) < p

    def maybe(self, p: float, tokens: list[Token]) -> list[Token]:
        return tokens if self.chance(p) else []

    def one(self, name: str) -> Noun:
        if name == "things" and self.chance(0.25):
            return self.own_thing
        if name == "in" and self.chance(0.25):
            return self.own_place
        return self.pick(self.words.nouns[name])

    # --- groups of words

    def group(
        self, name: str, case: str, number: str = "Sing", described: float = 0.5, n: Noun | None = None
    ) -> list[Token]:
        """A noun in its case, perhaps with a pronoun or adjectives before it and a genitive behind."""
        n = n or self.one(name)
        tokens = []
        if self.chance(0.12):
            word, kind = self.pick([("этот", "этот"), ("мой", "мой"), ("твой", "мой"), ("свой", "мой"), ("наш", "наш")])
            if word != "свой" or case != "Nom":
                tokens.append(adjective(word, n, case, number, "DET", kind))
        elif self.chance(0.1):
            tokens += [(self.pick(["его", "ее", "их"]), "DET", "_")]
        if self.chance(described):
            tokens.append(adjective(self.quality(name), n, case, number))
        tokens.append(n.token(case, number))
        if len(tokens) == 1 and name in ("in", "texts", "ideas") and self.chance(0.3):
            tokens += self.group("people", "Gen", self.pick(["Sing", "Plur"]), 0.2)
        return tokens

    def quality(self, name: str) -> str:
        what = {
            "people": "people",
            "animals": "things",
            "in": "places",
            "on": "places",
            "ideas": "ideas",
            "texts": "ideas",
        }
        if name in ("in", "on") and self.chance(0.3):
            return self.pick([self.town_adjective, self.town_adjective, self.pick(self.words.sizes)])
        if name == "things" and self.chance(0.2):
            return self.pick(self.words.shades)
        return self.pick(ADJECTIVES_OF[what.get(name, "things")])

    def person(self, case: str = "Nom") -> Subject:
        """A man or a woman with a surname, or just a noun."""
        woman = self.chance(0.5)
        gender = "Fem" if woman else "Masc"
        if self.chance(0.4):
            names = self.surname if self.chance(0.7) else self.pick(self.words.familiar)
            first = self.pick(self.words.women if woman else self.words.men)
            return Subject([*self.maybe(0.6, [first.token(case)]), names[woman].token(case)], gender, "Sing")
        n = self.one("people")
        number = "Plur" if self.chance(0.3) else "Sing"
        return Subject(self.group("people", case, number, 0.4, n), n.gender, number)

    def pronoun(self, case: str = "Nom") -> Subject:
        word = self.pick(list(PRONOUNS))
        forms, gender, number, person = PRONOUNS[word]
        form = forms.split()[{"Nom": 0, "Gen": 1, "Acc": 1, "Dat": 2, "Ins": 3}[case]]
        tags = feats(Case=case, Gender=gender, Number=number, Person=str(person))
        return Subject([(form, "PRON", tags)], gender or self.pick(["Masc", "Fem"]), number, person)

    def who(self) -> Subject:
        return self.pronoun() if self.chance(0.35) else self.person()

    def place(self, whither: bool = False) -> list[Token]:
        """Where somebody is, or goes to."""
        case = "Acc" if whither else "Loc"
        kind = self.pick(["in", "in", "on", "town"])
        if kind == "town":
            return [*fixed("в/ADP"), self.town.token(case)]
        return [*fixed("в/ADP" if kind == "in" else "на/ADP"), *self.group(kind, case)]

    def action(self, subject: Subject, how: str, aspect: int) -> list[Token]:
        """A verb and its object; `how` as for `conjugated`, aspect 1 is perfective."""
        kind = self.pick(["texts", "things", "people", "ideas"])
        act = conjugated(self.pick(self.words.verbs[kind][aspect]), how, subject)
        number = "Plur" if self.chance(0.3) else "Sing"
        if kind == "people":
            other = self.pronoun("Acc").tokens if self.chance(0.3) else self.person("Acc").tokens
            return [act, *other]
        if self.chance(0.15):
            return [act, *self.counted(kind)]
        return [act, *self.group(kind, "Acc", number)]

    def counted(self, name: str) -> list[Token]:
        """A number of inanimate things, nominative or accusative: два and its like govern the genitive singular."""
        n = self.one(name)
        if self.chance(0.3):
            return [(str(5 + int(next(self.draws) * 15)), "NUM", "NumForm=Digit"), n.token("Gen", "Plur")]
        if self.chance(0.5):
            return [(self.pick(OF_PLURAL), "NUM", "Case=Acc"), *self.described(name, n), n.token("Gen", "Plur")]
        two = "две" if n.gender == "Fem" else "два"
        few = self.pick([two, "три", "четыре"])
        gender = n.gender if few == two else ""
        tags = feats(Animacy="Inan", Case="Acc", Gender=gender)
        return [(few, "NUM", tags), n.token("Gen")]

    def described(self, name: str, n: Noun) -> list[Token]:
        return self.maybe(0.3, [adjective(self.quality(name), n, "Gen", "Plur")])

    def clause(self, how: str = "", subject: Subject | None = None) -> list[Token]:
        """Somebody does something, somewhere, somehow, perhaps not."""
        subject = subject or self.who()
        how = how or self.pick(["past", "past", "now"])
        aspect = int(self.chance(0.6)) if how == "past" else 0
        before = self.maybe(0.15, fixed("не/PART")) or self.maybe(0.15, fixed("уже/ADV"))
        if not aspect and not before:
            before = self.maybe(0.1, fixed("еще/ADV")) + self.maybe(0.4, fixed(self.pick(HOW) + "/ADV"))
        if self.chance(0.35):
            kind = "coming" if aspect else "being"
            act = conjugated(self.pick(self.words.verbs[kind][aspect]), how, subject)
            return [*subject.tokens, *before, act, *self.place(kind == "coming")]
        return [*subject.tokens, *before, *self.action(subject, how, aspect)]

    # --- sentences

    def s_plain(self) -> list[Token]:
        when = self.chance(0.3)
        start = fixed(self.pick(WHEN) + "/ADV") if when else []
        return [*start, *self.clause("past" if when else ""), *STOP]

    def s_two(self) -> list[Token]:
        joint = self.pick([", а", ", но", ", и", ", однако", " и"])
        comma = COMMA if joint[0] == "," else []
        return [*self.clause(), *comma, *fixed(joint.strip(", ") + "/CCONJ"), *self.clause(), *STOP]

    def s_same_subject(self) -> list[Token]:
        subject = self.who()
        joint = self.pick(["и", "или"])
        return [*self.clause("past", subject), *fixed(joint + "/CCONJ"), *self.action(subject, "past", 1), *STOP]

    def s_place_first(self) -> list[Token]:
        n = self.one("people")
        number = self.pick(["Sing", "Plur"])
        subject = Subject(self.group("people", "Nom", number, 0.5, n), n.gender, number)
        act = conjugated(self.pick(self.words.verbs["being"][0]), self.pick(["past", "now"]), subject)
        return [*self.place(), act, *subject.tokens, *STOP]

    def s_from(self) -> list[Token]:
        subject = self.who()
        act = conjugated(self.pick(self.words.verbs["coming"][1]), self.pick(["past", "past", "now"]), subject)
        origin = [self.town.token("Gen")] if self.chance(0.5) else self.group("in", "Gen")
        return [*subject.tokens, act, *fixed("из/ADP"), *origin, *self.maybe(0.6, self.place(True)), *STOP]

    def s_said_that(self) -> list[Token]:
        subject = self.who()
        aspect = int(self.chance(0.7))
        said = conjugated(self.pick(self.words.verbs["saying"][aspect]), "past" if aspect else "now", subject)
        return [*subject.tokens, said, *COMMA, *fixed("что/SCONJ"), *self.clause(), *STOP]

    def s_quoted(self) -> list[Token]:
        subject = self.person()
        said = conjugated(self.pick(self.words.verbs["saying"][1]), "past", subject)
        end = self.pick([",", "!", "?"])
        quote = [*fixed("«/PUNCT"), *self.clause(), *([] if end == "," else fixed(end + "/PUNCT")), *fixed("»/PUNCT")]
        return [*quote, *(COMMA if end == "," else []), *DASH, said, *subject.tokens, *STOP]

    def s_when(self) -> list[Token]:
        joint = self.pick(["когда", "пока", "если", "хотя", "как только"])
        words = fixed("как/SCONJ только/PART") if " " in joint else fixed(joint + "/SCONJ")
        how = "now" if joint == "если" else "past"
        return [*words, *self.clause(how), *COMMA, *self.clause(how), *STOP]

    def s_because(self) -> list[Token]:
        return [*self.clause("past"), *COMMA, *fixed("потому/ADV что/SCONJ"), *self.clause("past"), *STOP]

    def s_in_order_to(self) -> list[Token]:
        nobody = Subject([], "", "")
        start = [*fixed("чтобы/SCONJ"), *self.action(nobody, "inf", 1), *COMMA]
        whom = self.pronoun("Dat").tokens if self.chance(0.5) else self.person("Dat").tokens
        need = [("нужно", "ADJ", "Degree=Pos|Gender=Neut|Number=Sing|Variant=Short")]
        return [*start, *whom, *need, *self.action(nobody, "inf", 1), *STOP]

    def s_trying(self) -> list[Token]:
        subject = self.who()
        nobody = Subject([], "", "")
        if self.chance(0.3):
            want = conjugated(verb("хотеть:хочу:хотят", "Imp"), "past", subject)
            return [*subject.tokens, want, *fixed("бы/AUX"), *self.action(nobody, "inf", 1), *STOP]
        tries = conjugated(self.pick(self.words.verbs["trying"][0]), self.pick(["now", "past"]), subject)
        return [*subject.tokens, tries, *self.action(nobody, "inf", 0), *STOP]

    def s_has(self) -> list[Token]:
        whose = self.person("Gen").tokens
        no = self.chance(0.3)
        case = "Gen" if no else "Nom"
        has = [("нет", "VERB", "_") if no else ("есть", "VERB", THERE_IS)]
        return [*fixed("у/ADP"), *whose, *has, *self.group(self.pick(["things", "texts", "ideas"]), case), *STOP]

    def s_was(self) -> list[Token]:
        kind = self.pick(["things", "texts", "in", "ideas", "people"])
        n = self.one(kind)
        number = self.pick(["Sing", "Sing", "Plur"])
        end = "и" if number == "Plur" else {"Masc": "", "Fem": "а", "Neut": "о"}[n.gender]
        gender = "" if number == "Plur" else n.gender
        if self.chance(0.3):
            be = "будут" if number == "Plur" else "будет"
            tags = feats(Mood="Ind", Number=number, Person="3", Tense="Fut", VerbForm="Fin", Voice="Act")
        else:
            be = "был" + end
            tags = feats(Gender=gender, Mood="Ind", Number=number, Tense="Past", VerbForm="Fin", Voice="Act")
        very = self.maybe(0.4, fixed(self.pick(["очень", "совсем", "слишком"]) + "/ADV"))
        quality = adjective(self.quality(kind), n, "Ins", number)
        return [*self.group(kind, "Nom", number, 0.3, n), (be, "AUX", tags), *very, quality, *STOP]

    def s_ready(self) -> list[Token]:
        subject = self.who()
        word = self.pick(SHORT)
        gender = "" if subject.number == "Plur" else subject.gender
        form = word if gender == "Masc" else SHORT_STEMS.get(word, word) + ("а" if gender else "ы")
        tags = feats(Degree="Pos", Gender=gender, Number=subject.number, Variant="Short")
        return [*subject.tokens, (form, "ADJ", tags), *self.action(Subject([], "", ""), "inf", 1), *STOP]

    def s_passive(self) -> list[Token]:
        kind = self.pick(["texts", "things", "ideas"])
        n = self.one(kind)
        plural = self.chance(0.3)
        number = "Plur" if plural else "Sing"
        gender = "" if plural else n.gender
        form = self.pick(PARTICIPLES[kind].split()) + (
            "ы" if plural else {"Masc": "", "Fem": "а", "Neut": "о"}[n.gender]
        )
        tags = feats(
            Aspect="Perf", Gender=gender, Number=number, Tense="Past", Variant="Short", VerbForm="Part", Voice="Pass"
        )
        return [*self.group(kind, "Nom", number, 0.5, n), (form, "VERB", tags), *self.person("Ins").tokens, *STOP]

    def s_having(self) -> list[Token]:
        """A converb has the subject of the main clause."""
        kind = self.pick(["texts", "things", "ideas"])
        verbs = [v for v in self.words.verbs[kind][int(self.chance(0.6))] if v.infinitive != "писать"]  # which has none
        start = [conjugated(self.pick(verbs), "conv"), *self.group(kind, "Acc", self.pick(["Sing", "Plur"]))]
        return [*start, *COMMA, *self.clause("past"), *STOP]

    def s_which(self) -> list[Token]:
        n = self.one("people")
        number = self.pick(["Sing", "Plur"])
        subject = Subject([adjective("который", n, "Nom", number, "PRON", "который")], n.gender, number)
        relative = [*COMMA, *self.clause("past", subject), *COMMA]
        main = Subject([], n.gender, number)
        return [*self.group("people", "Nom", number, 0.3, n), *relative, *self.action(main, "past", 1), *STOP]

    def s_than(self) -> list[Token]:
        kind = self.pick(["things", "texts", "in", "ideas"])
        more = (self.pick(COMPARATIVES), "ADJ", "Degree=Cmp")
        return [*self.group(kind, "Nom"), more, *COMMA, *fixed("чем/SCONJ"), *self.group(kind, "Nom"), *STOP]

    def s_order(self) -> list[Token]:
        form = self.pick(IMPERATIVES).lower()
        act = (form, "VERB", "Aspect=Perf|Mood=Imp|Number=Plur|Person=2|VerbForm=Fin|Voice=Act")
        whom = self.maybe(0.5, [("мне", "PRON", "Case=Dat|Number=Sing|Person=1")])
        please = self.maybe(0.5, [*COMMA, *fixed("пожалуйста/PART")])
        return [act, *whom, *self.group("things", "Acc", self.pick(["Sing", "Plur"])), *please, *fixed("!/PUNCT")]

    def s_asked(self) -> list[Token]:
        who = Subject([("кто", "PRON", "Animacy=Anim|Case=Nom|Gender=Masc|Number=Sing")], "Masc", "Sing")
        if self.chance(0.5):
            return [*who.tokens, *self.action(who, "past", 1), *fixed("?/PUNCT")]
        subject = self.person()
        act = conjugated(self.pick(self.words.verbs["being"][0]), "now", subject)
        return [
            *fixed(self.pick(["где", "как", "почему", "когда", "зачем"]) + "/ADV"),
            act,
            *subject.tokens,
            *fixed("?/PUNCT"),
        ]

    def s_oh(self) -> list[Token]:
        n = self.one("things")
        number = self.pick(["Sing", "Plur"])
        oh = fixed(self.pick(["ах", "ох", "ого", "увы", "эх"]) + "/INTJ")
        what = [
            adjective("какой", n, "Nom", number, "DET", "какой"),
            adjective(self.quality("things"), n, "Nom", number),
        ]
        return [*oh, *COMMA, *what, n.token("Nom", number), *fixed("!/PUNCT")]

    def s_both(self) -> list[Token]:
        """и ... и, не только ... но и."""
        subject = self.who()
        kind = self.pick(["texts", "things"])
        act = conjugated(self.pick(self.words.verbs[kind][1]), "past", subject)
        first, second = (self.group(kind, "Acc", self.pick(["Sing", "Plur"])) for _ in range(2))
        if self.chance(0.5):
            return [*subject.tokens, act, *fixed("и/CCONJ"), *first, *COMMA, *fixed("и/CCONJ"), *second, *STOP]
        only = fixed("не/PART только/PART")
        return [*subject.tokens, act, *only, *first, *COMMA, *fixed("но/CCONJ и/PART"), *second, *STOP]

    def s_percent(self) -> list[Token]:
        n = str(2 + int(next(self.draws) * 60))
        what = self.pick(["цены", "налоги", "расходы", "доходы"])
        rose = self.pick(["выросли", "упали"])
        subject = (what, "NOUN", f"Animacy=Inan|Case=Nom|Gender={'Fem' if what == 'цены' else 'Masc'}|Number=Plur")
        amount = [(n, "NUM", "NumForm=Digit"), ("%", "SYM", "_")]
        return [*self.place(), subject, (rose, "VERB", PAST_PLURAL), *fixed("на/ADP"), *amount, *STOP]

    def s_about(self) -> list[Token]:
        subject = self.who()
        said = conjugated(self.pick(self.words.verbs["saying"][1][:2]), "past", subject)
        return [*subject.tokens, said, *fixed("о/ADP"), *self.consonant(), *STOP]

    def consonant(self) -> list[Token]:
        """What begins with a consonant, so that it may follow о."""
        while (tokens := self.group(self.pick(["ideas", "things"]), "Loc", self.pick(["Sing", "Plur"])))[0][0][
            0
        ] in "аеиоуэ":
            pass
        return tokens

    def s_without(self) -> list[Token]:
        adposition, case = self.pick(
            [
                ("без", "Gen"),
                ("для", "Gen"),
                ("после", "Gen"),
                ("благодаря", "Dat"),
                ("перед", "Ins"),
                ("вместо", "Gen"),
            ]
        )
        return [*fixed(adposition + "/ADP"), *self.group("ideas", case), *self.clause("past"), *STOP]

    def s_animal(self) -> list[Token]:
        n = self.pick(self.words.nouns["animals"])
        number = self.pick(["Sing", "Plur"])
        subject = Subject(self.group("animals", "Nom", number, 0.7, n), n.gender, number)
        if self.chance(0.5):
            entry = self.pick(["спать:сплю:спят", "гулять", "стоять:стою:стоят"])
            return [
                *subject.tokens,
                conjugated(verb(entry, "Imp"), self.pick(["now", "past"]), subject),
                *self.place(),
                *STOP,
            ]
        act = conjugated(self.pick(self.words.verbs["people"][1][:2]), "past", subject)
        return [*subject.tokens, act, *self.group("animals", "Acc", self.pick(["Sing", "Plur"]), 0.5), *STOP]

    # --- sentences with a form that has two tags

    def s_stali(self) -> list[Token]:
        """стали: they became, or of steel."""
        if self.chance(0.5):
            became = ("стали", "VERB", PAST_PLURAL)
            return [*self.group("people", "Nom", "Plur"), became, *self.group("people", "Ins", "Plur"), *STOP]
        made = ("сделаны", "VERB", "Aspect=Perf|Number=Plur|Tense=Past|Variant=Short|VerbForm=Part|Voice=Pass")
        n = self.words.nouns["materials"][0] if self.chance(0.6) else self.pick(self.words.nouns["materials"])
        return [*self.group("things", "Nom", "Plur"), made, *fixed("из/ADP"), n.token("Gen"), *STOP]

    def s_moi(self) -> list[Token]:
        """мой: my, or wash!"""
        if self.chance(0.5):
            n = self.pick([n for n in self.words.nouns["people"] if n.gender == "Masc"])
            subject = Subject([adjective("мой", n, "Nom", "Sing", "DET", "мой"), n.token("Nom")], "Masc", "Sing")
            return [*self.clause("", subject), *STOP]
        not_ = self.maybe(0.3, fixed("не/PART"))
        what = self.group("things", "Acc", self.pick(["Sing", "Plur"]), 0.3)
        return [
            *not_,
            ("мой", "VERB", ORDER),
            *what,
            *self.maybe(0.4, fixed(self.pick(HOW) + "/ADV")),
            *fixed("!/PUNCT"),
        ]

    def s_pech(self) -> list[Token]:
        """печь: to bake, or the oven."""
        if self.chance(0.5):
            subject = self.who()
            tries = conjugated(self.pick(self.words.verbs["trying"][0]), "now", subject)
            number = self.pick(["Sing", "Plur"])
            return [*subject.tokens, tries, ("печь", "VERB", INFINITIVE), noun("пирог").token("Acc", number), *STOP]
        oven = noun("печь:f")
        subject = Subject(self.group("things", "Nom", "Sing", 0.6, oven), "Fem", "Sing")
        return [
            *self.place(),
            conjugated(verb("стоять:стою:стоят", "Imp"), self.pick(["now", "past"]), subject),
            *subject.tokens,
            *STOP,
        ]

    def s_chto(self) -> list[Token]:
        """что as a pronoun; `s_said_that` has the conjunction."""
        subject = self.who()
        kind = self.pick(["texts", "things"])
        act = conjugated(self.pick(self.words.verbs[kind][1]), "past", subject)
        what = ("что", "PRON", "Animacy=Inan|Case=Acc|Gender=Neut|Number=Sing")
        if self.chance(0.5):
            return [what, act, *subject.tokens, *fixed("?/PUNCT")]
        knows = self.who()
        start = [*knows.tokens, *self.maybe(0.5, fixed("не/PART")), conjugated(verb("знать", "Imp"), "now", knows)]
        return [*start, *COMMA, what, act, *subject.tokens, *STOP]

    def s_uzhe(self) -> list[Token]:
        """уже: narrower; in `clause` it is already."""
        kind = self.pick(["in", "on"])
        more = ("уже", "ADJ", "Degree=Cmp")
        much = self.maybe(0.4, fixed("гораздо/ADV"))
        return [*self.group(kind, "Nom"), *much, more, *COMMA, *fixed("чем/SCONJ"), *self.group(kind, "Nom"), *STOP]

    def s_i(self) -> list[Token]:
        """и: even."""
        subject = self.person()
        knows = conjugated(self.pick(self.words.verbs["people"][0][3:4]), "now", subject)
        that = [("это", "PRON", "Animacy=Inan|Case=Acc|Gender=Neut|Number=Sing"), knows]
        return [*that, *fixed("и/PART"), *subject.tokens, *STOP]

    def s_after(self) -> list[Token]:
        """вокруг, мимо, напротив: with a genitive a preposition, without one an adverb."""
        word = self.pick(["вокруг", "напротив", "рядом"])
        subject = self.who()
        act = conjugated(self.pick(self.words.verbs["being"][0]), "past", subject)
        if self.chance(0.5) or word == "рядом":
            return [*fixed(word + "/ADV"), act, *subject.tokens, *STOP]
        return [*subject.tokens, act, *fixed(word + "/ADP"), *self.group("in", "Gen"), *STOP]

    def s_pila(self) -> list[Token]:
        """пила: she drank, or a saw."""
        if self.chance(0.5):
            n = self.pick([n for n in self.words.nouns["people"] if n.gender == "Fem"])
            tags = "Aspect=Imp|Gender=Fem|Mood=Ind|Number=Sing|Tense=Past|VerbForm=Fin|Voice=Act"
            drink = noun(self.pick(["чай", "сок", "лимонад"])).token("Acc")
            return [*self.group("people", "Nom", "Sing", 0.4, n), ("пила", "VERB", tags), drink, *self.place(), *STOP]
        saw = noun("пила")
        subject = Subject(self.group("things", "Nom", "Sing", 0.6, saw), "Fem", "Sing")
        return [*self.place(), conjugated(verb("лежать:лежу:лежат", "Imp"), "now", subject), *subject.tokens, *STOP]

    def s_tri(self) -> list[Token]:
        """три: three, or rub!"""
        if self.chance(0.4):
            n = self.one("things")
            three = ("три", "NUM", "Animacy=Inan|Case=Acc")
            subject = self.who()
            act = conjugated(self.pick(self.words.verbs["things"][1]), "past", subject)
            return [*subject.tokens, act, three, n.token("Gen"), *STOP]
        what = self.group("things", "Acc", "Sing", 0.4)
        return [("три", "VERB", ORDER), *what, *fixed(self.pick(HOW) + "/ADV"), *fixed("!/PUNCT")]

    def s_worker(self) -> list[Token]:
        """больной, рабочий: adjectives that are nouns when none follows."""
        word = self.pick(["больной", "рабочий", "дежурный"])
        man = noun("человек", True)
        case = self.pick(["Nom", "Acc"])
        who = [
            (
                adjective(word, man, case, "Sing")[0],
                "NOUN",
                feats(Animacy="Anim", Case=case, Gender="Masc", Number="Sing"),
            )
        ]
        if self.chance(0.5):
            who = [adjective(word, man, case, "Sing"), man.token(case)]
        if case == "Nom":
            return [*self.clause("", Subject(who, "Masc", "Sing")), *STOP]
        subject = self.who()
        return [*subject.tokens, conjugated(self.pick(self.words.verbs["people"][1]), "past", subject), *who, *STOP]

    def s_its(self) -> list[Token]:
        """его, ее, их: whom, or whose; `group` has the latter."""
        subject = self.person()
        act = conjugated(self.pick(self.words.verbs["people"][self.pick([0, 1])]), "past", subject)
        form, gender, number = self.pick([("его", "Masc", "Sing"), ("ее", "Fem", "Sing"), ("их", "", "Plur")])
        return [
            *subject.tokens,
            (form, "PRON", feats(Case="Acc", Gender=gender, Number=number, Person="3")),
            act,
            *STOP,
        ]

    def s_all(self) -> list[Token]:
        """все: all of some, or everybody."""
        everybody = [("все", "PRON", "Animacy=Anim|Case=Nom|Number=Plur")]
        if self.chance(0.5):
            return [*self.clause("", Subject(everybody, "", "Plur")), *STOP]
        all_ = ("все", "DET", "Case=Nom|Number=Plur")
        return [*self.clause("", Subject([all_, self.one("people").token("Nom", "Plur")], "", "Plur")), *STOP]

    def s_names(self) -> list[Token]:
        """Роман and Вера are first names, роман and вера are not."""
        man = self.chance(0.5)
        if self.chance(0.5):
            first = noun("Роман" if man else "Вера", True, "PROPN")
            names = self.surname[not man]
            subject = Subject([first.token("Nom"), names.token("Nom")], first.gender, "Sing")
            return [*self.clause("past", subject), *STOP]
        n = noun("роман" if man else "вера")
        be = conjugated(verb("помогать", "Imp"), self.pick(["now", "past"]), Subject([], n.gender, "Sing"))
        return [n.token("Nom"), *self.group("people", "Gen", "Sing", 0.3), be, *self.person("Dat").tokens, *STOP]


SENTENCE_KINDS = [method for name, method in vars(Writer).items() if name.startswith("s_")]


def numbers(document: int) -> Iterator[float]:
    """Numbers in [0, 1) without end."""
    for block in count():
        yield from uniform(np.arange(block * 100, block * 100 + 100), 16, ONCE, document).flatten().tolist()


def documents() -> Iterator[list[list[Token]]]:
    """The sentences of each document, the same at every call and everywhere; none is in the sample twice."""
    words = lexicon()
    seen = set()
    for i in range(DOCUMENTS):
        writer = Writer(words, i)
        sentences: list[list[Token]] = []
        while len(sentences) < SENTENCES:
            tokens = writer.sentence()
            key = tuple(form for form, _, _ in tokens)
            if key not in seen:
                seen.add(key)
                sentences.append(tokens)
        yield sentences


def written(tokens: list[Token]) -> str:
    """The text, with spaces where they belong."""
    text = ""
    for form, _, _ in tokens:
        text += form if not text or form in ".,!?»" or text.endswith("«") else " " + form
    return text


def text() -> bytes:
    """The sample in the CoNLL-U of Nerus."""
    lines = []
    for i, sentences in enumerate(documents()):
        lines.append(f"# newdoc id = {i}")
        for j, tokens in enumerate(sentences):
            root = next((n for n, (_, tag, _) in enumerate(tokens, 1) if tag == "VERB"), 1)
            lines += [f"# sent_id = {i}_{j}", f"# text = {written(tokens)}"]
            for n, (form, tag, tags) in enumerate(tokens, 1):
                hangs = "0\troot" if n == root else f"{root}\t{'punct' if tag == 'PUNCT' else 'dep'}"
                lines.append(f"{n}\t{form}\t_\t{tag}\t_\t{tags}\t{hangs}\t_\tTag=O")
            lines.append("")
    return "\n".join([*lines, ""]).encode()
