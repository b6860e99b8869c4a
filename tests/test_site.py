"""The site: what its builder does of its own, without Sphinx, whose part `nox -s site` does in CI."""

import csv
import re
from html import unescape
from importlib import resources
from pathlib import Path

import gallery
import glossary
import links
import make_site
import pages
import prose
import pytest
import studies
from beside import beside

from etude.study.file import available, load

ROOT = Path(__file__).parents[1]
PACKAGES = make_site.tasks(ROOT)


@pytest.fixture(scope="module")
def site():
    return make_site.plan(ROOT, PACKAGES)


@pytest.fixture(scope="module")
def written(site):
    return make_site.sources(site, PACKAGES)


# --------------------------------------------------------------------------------------------------------- the gallery


def cards_of(page):
    """By package and study, the cards of a page."""
    cards = re.findall(r'<article class="card">.*?</article>', page, flags=re.DOTALL)
    leads = re.compile(r'href="[./]*(?:studies/([\w-]+)/|etudes/([\w-]+)\.html#study-\2-)([\w-]+?)(?:\.html)?"')
    found = [(leads.search(card).groups(), card) for card in cards]
    return {(english or russian, study): card for (english, russian, study), card in found}


def test_the_gallery_shows_every_study_whose_results_are_committed(written):
    for page in ("index", "ru/index"):
        cards = cards_of(written[page])
        there = {
            (package.name, file.stem)
            for package in PACKAGES
            for file in (ROOT / "packages" / package.name / "results").glob("*.csv")
            if (ROOT / "packages" / package.name / "src" / package.module / "studies" / f"{file.stem}.yaml").is_file()
        }
        assert cards.keys() == there and len(there) > 10
        for name, study in there:
            russian = written[f"ru/etudes/{name}"]
            assert f"\n(study-{name}-{study})=\n### " in russian
            assert f"](site:../../studies/{name}/{study}.html)" in russian
            assert f"\n(study-{name}-{study})=\n#" in written[f"etudes/{name}"]
            assert f"[Report](site:../studies/{name}/{study}.html)" in written[f"etudes/{name}"]
            assert f"/studies/{name}/{study}>" in written[f"etudes/{name}"]
        assert all('<svg class="chart"' in card for card in cards.values())
        assert all("\n\n" not in card for card in cards.values()), "an empty line ends HTML in Markdown"


def test_a_verdict_of_the_gallery_is_that_of_the_readme(written):
    """As `nox -s tables` made it: claim and verdict of each line, and no other."""
    words = {told: kind for kind, (_, of) in gallery.VERDICTS.items() for told in of.values()}
    judged = 0
    for page in ("index", "ru/index"):
        for (name, study), card in cards_of(written[page]).items():
            readme = (ROOT / "packages" / name / "README.md").read_text("utf-8")
            section = re.search(rf"<!-- made: study {study} -->\n(.*?)<!-- end -->", readme, flags=re.DOTALL)[1]
            in_readme = re.findall(r"^- (.+?): (as expected|not expected|unclear) \(", section, flags=re.MULTILINE)
            found = re.findall(r"<b>. (\w+)</b> <span[^>]*>(.+?)</span>", card)
            assert [(claim.replace("&gt;", ">").replace("&lt;", "<"), words[told]) for told, claim in found] == [
                (claim.replace("\\", ""), verdict) for claim, verdict in in_readme
            ]
            judged += len(found)
    assert judged > 20


def test_the_chart_of_a_card_is_drawn_of_the_result_file(tmp_path):
    """Another score in the file is another picture."""
    (package,) = (package for package in PACKAGES if package.name == "names-rnn")
    file = tmp_path / "names-rnn" / "results" / "cell.csv"
    file.parent.mkdir(parents=True)
    text = (ROOT / "packages/names-rnn/results/cell.csv").read_text("utf-8")
    file.write_text(text, "utf-8")
    (before,) = gallery.studies(tmp_path, package)
    value = re.search(r"0\.746800\d+", text)[0]
    file.write_text(text.replace(value, "0.5468"), "utf-8")
    (after,) = gallery.studies(tmp_path, package)
    assert gallery.thumbnail(before) != gallery.thumbnail(after)


def test_every_question_of_the_gallery_is_there_in_russian(written):
    asked = {load(name, p.module, p.scores).question for p in PACKAGES for name in available(p.module)}
    assert gallery.russian().keys() <= asked, "docs/site/questions.ru.yaml translates what no study asks any more"
    for card in cards_of(written["ru/index"]).values():
        assert re.search(r'<p class="question"><a [^>]*>[^<]*[а-я]', card)


def test_a_question_without_russian_is_refused(monkeypatch):
    (shown, *_) = gallery.studies(ROOT / "packages", PACKAGES[0])
    monkeypatch.setattr(gallery, "russian", dict)
    assert gallery.question(shown, "en") == shown.found.title
    with pytest.raises(ValueError, match=re.escape(shown.found.title)):
        gallery.question(shown, "ru")


def test_the_colours_of_the_charts_are_those_of_the_reports():
    html = (resources.files("etude.report") / "page.html").read_text("utf-8")
    css = gallery.styles(html)
    for number in range(7):
        assert f".chart .c{number} {{ --c: var(--" in css
    css, _, reports = css.partition(".report {")
    assert css.count("--blue: #0072b2") == 1 and css.count("--blue: #4aa8e0") == 2  # light; dark by choice, by system
    assert ".verdicts {" in reports and reports.count("{") == reports.count("}") - 1
    assert css.count("{") == css.count("}")


# ----------------------------------------------------------------------------------- the studies, and études in Russian


def test_a_study_has_a_page_with_all_that_its_file_and_its_readme_say(written):
    for page in (page for page in written if page.startswith("studies/")):
        _, name, study = page.split("/")
        text = written[page]
        readme = (ROOT / "packages" / name / "README.md").read_text("utf-8")
        said = pages.MADE.sub("", prose.prose(readme, study))
        concluded = text.partition("## Conclusions\n\n")[2].partition("\n\n## Results\n")[0]
        assert re.sub(r"\]\(.*?\)", "]", concluded) == re.sub(r"\]\(.*?\)", "]", said) and "<!--" not in text
        with (ROOT / "packages" / name / "results" / f"{study}.csv").open(encoding="utf-8") as file:
            runs = list(csv.DictReader(file))
        assert sorted(re.findall(r", seed (\d+)</td>", text)) == sorted(run["seed"] for run in runs)
        section = re.search(rf"<!-- made: study {study} -->\n(.*?)<!-- end -->", readme, flags=re.DOTALL)[1]
        for claim in re.findall(r"^- (.+?): (?:as expected|not expected|unclear) \(", section, flags=re.MULTILINE):
            assert f"<b>{claim.replace(chr(92), '')}</b>" in unescape(text)
        assert f"{name} study {study}" in text and '<svg class="chart"' in text


def test_an_etude_in_russian_has_its_row_of_the_readme_and_leads_on(written):
    readme = (ROOT / "README.ru.md").read_text("utf-8")
    for package in PACKAGES:
        text = written[f"ru/etudes/{package.name}"]
        row = re.search(rf"^\| \[{package.name}\]\([^)]*\) \| (.*?) \| (.*?) \|", readme, flags=re.MULTILINE)
        assert text.startswith(f"# {package.name}. {row[1]}\n\n**Ответ.** {row[2]}\n") and "<!--" not in text
        assert f"по-английски](site:../../etudes/{package.name}.html)" in text
        assert f"[{package.name}](etudes/{package.name}.md)" in written["ru/index"]


def test_a_study_is_concluded_in_russian_beside_its_chart(written):
    """The verdicts are those of the English README, in the words of the gallery; the conclusion is Russian prose."""
    words = {kind: told["ru"] for kind, (_, told) in gallery.VERDICTS.items()}
    assert words == studies.RUSSIAN
    for package in PACKAGES:
        english, russian = (
            (ROOT / "packages" / package.name / f"README{end}.md").read_text("utf-8") for end in ("", ".ru")
        )
        shown = list(gallery.studies(ROOT / "packages", package))
        assert written[f"ru/etudes/{package.name}"].count('<svg class="chart"') == len(shown)
        for study in shown:
            said = pages.MADE.sub("", prose.prose(russian, study.name))
            assert len(said) > 100 and len(re.findall("[а-яё]", said)) > len(said) / 2, study.name
            made = [
                re.search(rf"<!-- made: study {study.name} -->\n(.*?)<!-- end -->", of, re.DOTALL)[1]
                for of in (english, russian)
            ]
            verdicts = [re.findall(r"^- (.+?): ([а-я]+|[a-z ]+) \(", of, flags=re.MULTILINE) for of in made]
            assert [(claim, words[told]) for claim, told in verdicts[0]] == verdicts[1], study.name


def test_both_readmes_of_an_etude_show_the_same_commands():
    for package in PACKAGES:
        both = [(ROOT / "packages" / package.name / f"README{end}.md").read_text("utf-8") for end in ("", ".ru")]
        shown = [[line.partition("#")[0].strip() for line in text.split("```")[1].splitlines()] for text in both]
        assert shown[0] == shown[1], package.name


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# cnn-emnist. Что", "# cnn-emnist. Кто", "has to begin with '# cnn-emnist. Что"),
        ("<!-- made: study layers -->", "<!-- made: study other -->", "has no section '### Сколько свёрток"),
        ("### Лучше ли читает", "### Хуже ли читает", "has no section '### Лучше ли читает"),
        (None, None, "is not there"),
    ],
)
def test_a_study_that_russian_leaves_out_is_refused(tmp_path, old, new, said):
    (package,) = (package for package in PACKAGES if package.name == "cnn-emnist")
    file = tmp_path / "packages/cnn-emnist/README.ru.md"
    file.parent.mkdir(parents=True)
    (tmp_path / "README.ru.md").write_text((ROOT / "README.ru.md").read_text("utf-8"), "utf-8")
    if old is not None:
        text = (ROOT / "packages/cnn-emnist/README.ru.md").read_text("utf-8")
        assert text.count(old) == 1
        file.write_text(text.replace(old, new), "utf-8")
    shown = list(gallery.studies(ROOT / "packages", package))
    with pytest.raises(ValueError, match=re.escape(said)):
        make_site.in_russian(pages.Site(tmp_path, {}), package, shown)


# -------------------------------------------------------------------------------------------------------- the glossary


def test_every_score_of_every_task_is_in_the_glossary(written):
    for page in ("glossary", "ru/glossary"):
        parts = re.split(r"^## ", written[page], flags=re.MULTILINE)[1:]
        sections = {part.partition("\n")[0].replace("\\", ""): part for part in parts}
        assert sections.keys() == {score for package in PACKAGES for score in package.meanings}
        for package in PACKAGES:
            assert package.scores.keys() <= package.meanings.keys()
            for score, meaning in package.meanings.items():
                (line,) = [line for line in sections[score].splitlines() if f"[{package.name}]" in line]
                assert glossary.literal(meaning) in line
                if score in package.scores:
                    way = glossary.WORDS[package.scores[score]][pages.language_of(page)]
                    assert way in sections[score]


# ----------------------------------------------------------------------------------------------------------- its links


def small(tmp_path, text, address=""):
    """A repository of two pages, a picture and a file that is no page."""
    for name in ("packages/one", "docs"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("packages/one/README.md", "docs/more.md", "docs/x.png", "docs/x.yaml"):
        (tmp_path / name).write_text("x", "utf-8")
    found = {"README.md": "index", "README.ru.md": "ru/index", "packages/one/README.md": "etudes/one"}
    found["docs/more.md"] = "more"
    made = pages.Site(tmp_path, found, address)
    return pages.put(made, "README.md", text, "index"), made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[one](packages/one)", "[one](etudes/one.md)"),
        ("[one](packages/one/README.md#data)", "[one](etudes/one.md#data)"),
        ("[here](#more), [there](https://x.org/a)", "[here](#more), [there](https://x.org/a)"),
        ("`[one](packages/one)` [`x.yaml`](docs/x.yaml)", "`[one](packages/one)` `x.yaml`"),
        ("![x](docs/x.png)", "![x](pictures/docs/x.png)"),
        ("a <!-- made: mean x.csv y .1f -->0.5<!-- end --> b", "a 0.5 b"),
    ],
)
def test_links_of_a_readme(tmp_path, text, expected):
    assert small(tmp_path, text)[0] == expected


def test_a_file_that_is_no_page_is_linked_to_where_the_repository_is(tmp_path):
    text, _ = small(tmp_path, "[x](docs/x.yaml)", "https://x.org/etude/blob/main")
    assert text == "[x](https://x.org/etude/blob/main/docs/x.yaml)"


def test_a_part_of_a_file_links_to_the_rest_of_it(tmp_path):
    _, made = small(tmp_path, "x")
    assert pages.put(made, "packages/one/README.md", "[up](#data)", "studies/one/x") == "[up](../../etudes/one.md#data)"
    assert pages.put(made, "packages/one/README.md", "[up](#data)", "etudes/one") == "[up](#data)"


@pytest.mark.parametrize("address", ["docs/gone.md", "packages/two", "../outside.md", "docs/gone.png"])
def test_a_link_to_what_is_not_there_is_refused(tmp_path, address):
    with pytest.raises(pages.BrokenLink, match=re.escape(address)):
        small(tmp_path, f"see [this]({address})")


def test_a_broken_link_fails_the_build_and_leaves_the_site_as_it_was(tmp_path, monkeypatch):
    out = tmp_path / "site"
    out.mkdir()
    (out / "index.html").write_text("before", "utf-8")
    monkeypatch.setattr(make_site, "plan", lambda root, packages: pages.Site(tmp_path, {"README.md": "index"}))
    (tmp_path / "README.md").write_text("[x](gone.md)", "utf-8")
    assert make_site.make(ROOT, out) == ["README.md links to gone.md, which is not there"]
    assert (out / "index.html").read_text("utf-8") == "before"


def test_the_finished_pages_are_checked(tmp_path):
    (tmp_path / "ru").mkdir()
    (tmp_path / "s.css").write_text("a { color: red }", "utf-8")
    (tmp_path / "index.html").write_text('<link href="s.css"><a href="ru/a.html#x">1</a><a href="https://x.org">2</a>')
    other = tmp_path / "ru/a.html"
    other.write_text('<p id="x"><a href="../index.html">1</a><img src="data:,">')
    assert list(links.problems(tmp_path)) == []
    for wrong, said in (
        ('<a href="gone.html">', "gone.html, which is not there"),
        ('<a href="../index.html#nowhere">', "there is no such place in index.html"),
        ('<img src="gone.png">', "gone.png, which is not there"),
        ('<img src="https://x.org/a.png">', "loads https://x.org/a.png"),
        ('<script src="//x.org/a.js"></script>', "loads //x.org/a.js"),
    ):
        other.write_text(f'<p id="x">{wrong}')
        (found,) = links.problems(tmp_path)
        assert said in found and found.startswith("ru/a.html")
    other.write_text('<p id="x">')
    (tmp_path / "s.css").write_text("@font-face { src: url(https://x.org/f.woff) }", "utf-8")
    assert list(links.problems(tmp_path)) == ["s.css loads something from elsewhere"]


# --------------------------------------------------------------------------------------------- the loop, beside prose


def test_all_of_the_loop_stands_beside_prose_in_both_languages(written):
    code = (ROOT / make_site.LOOP).read_text("utf-8")
    lines = [line for line in code.splitlines() if line.strip()]
    for page in ("built", "ru/built"):
        blocks = re.findall(
            r"code-block\} python\n:lineno-start: (\d+)\n\n(.*?)\n````\n", written[page], flags=re.DOTALL
        )
        assert [line for _, block in blocks for line in block.splitlines() if line.strip()] == lines
        for start, block in blocks:
            assert code.splitlines()[int(start) - 1] == block.splitlines()[0]


def test_prose_that_has_lost_its_code_is_refused():
    code = "a = 1\nb = 2\nb = 2\nc = 3\n"
    assert "a = 1\nb = 2\nb = 2\n" in beside("x\n<!-- from: a = 1 -->\nA.\n<!-- from: c = 3 -->\nC.\n", code, "f.py")
    for text in ("<!-- from: gone -->\n", "<!-- from: a = 1 -->\n<!-- from: b = 2 -->\n", "<!-- from: c = 3 -->\n"):
        with pytest.raises(ValueError, match=re.escape("f.py")):
            beside(text, code, "f.py")


# -------------------------------------------------------------------------------------------------------- what is there


def test_every_readme_and_card_is_a_page(site, written):
    for package in PACKAGES:
        assert {f"etudes/{package.name}", f"data/{package.name}"} <= written.keys()
    assert {"index", "built", "glossary", "contributing", "log", "changelog", "site", "cluster", "citation"} <= set(
        written
    )
    assert {"ru/index", "ru/built", "ru/glossary"} <= set(written)
    assert all((ROOT / picture).is_file() for picture in site.pictures)
    assert "<!-- made:" not in "".join(written.values())
