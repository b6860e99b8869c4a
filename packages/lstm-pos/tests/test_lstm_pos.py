import gzip
import io
import json
import os
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from etude import config
from etude.layers.norm import BatchNorm
from etude.testing import check_presets, check_task
from etude.text.fingerprints import fingerprints
from etude.train import checkpoint, run
from lstm_pos import batches, data, sample, task
from lstm_pos.__main__ import PACKAGE, main
from lstm_pos.config import Config, Model, Text
from lstm_pos.forms import AFFIXES, Dictionary, Encoder, Morphology, shape

SMALL = ["--model.embedding", "16", "--model.hidden", "16", "--data.documents", "120", "--fit.lr", "1e-2"]
CPU = torch.device("cpu")
KINDS = [
    ["--model.features", "endings"],
    ["--model.features", "characters", "--model.no-bidirectional"],
    ["--model.features", "both", "--model.layers", "2", "--model.morphology", "0.5"],
    ["--text.tokenizer", "bpe", "--text.vocabulary", "600", "--text.label", "last"],
    ["--text.tokenizer", "wordpiece", "--text.vocabulary", "600", "--text.label", "all", "--model.morphology", "1"],
    ["--text.tokenizer", "unigram", "--text.vocabulary", "600", "--model.batch-norm"],
    ["--model.dictionary", "--model.no-bidirectional"],
    ["--model.members", "3", "--model.features", "endings", "--model.morphology", "1"],
]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def made(*flags):
    torch.manual_seed(0)
    return task.make(config.parse(Config, [*SMALL, *flags]), CPU)


def alive(model):
    """An untrained model that does not answer the same for all words."""
    for member in model.members:
        member.embedding.weight.data.mul_(30)
        member.classify.weight.data.mul_(30)
        member.classify.bias.data.zero_()


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.features", "both", "--model.morphology", "0.3", "--model.batch-norm", "--model.dropout", "0.2"],
        ["--text.tokenizer", "bpe", "--text.vocabulary", "500", "--text.label", "all", "--text.max-length", "12"],
    ],
)
def test_the_battery(flags, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    check_task(PACKAGE, [*SMALL, *flags, "--fit.batch-size", "128"], ["Мама мыла раму.", "Мы стали ждать!"], runs)


@pytest.mark.parametrize("flags", KINDS)
def test_every_weight_takes_part(flags):
    one = made(*flags)
    ids = one.plan("train", 1, 32)[0]
    one.model.train()
    one.step(one.load("train", ids, 1))["loss"][0].backward()
    for name, parameter in one.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("flags", KINDS)
def test_tags_depend_neither_on_padding_nor_on_the_company_nor_on_the_way(flags):
    """In batches of sentences, one by one, and from the arrays of the corpus."""
    one = made(*flags)
    alive(one.model)
    part = one.parts["valid"]
    pairs = [one.read(a, b) for a, b in zip(part.starts[:30], part.ends[:30], strict=True)]
    words = [w for w, _ in pairs]
    together = one.tagged(words)
    assert len({tag for tags in together for tag in tags}) > 2
    assert [one.tagged([sentence])[0] for sentence in words] == together
    sums = one.step(one.load("valid", np.arange(30), 0))
    hits = sum(
        a == b for tags, (_, truth) in zip(together, pairs, strict=True) for a, b in zip(tags, truth, strict=True)
    )
    assert int(sums["accuracy"][0]) == hits
    assert int(sums["accuracy"][1]) == sum(map(len, words))


@pytest.mark.parametrize("together", [1, 60, 100_000])
def test_about_so_many_pieces_are_tagged_together(together, monkeypatch):
    one = made("--text.tokenizer", "bpe", "--text.vocabulary", "600")
    alive(one.model)
    part, words = one.parts["valid"], one.numbers[one.corpus.word_ids]
    answers, sizes = one.answers(one.forms, words, part, "fp32"), []
    monkeypatch.setattr(task, "TOGETHER", together)
    one.model.register_forward_pre_hook(lambda _, given: sizes.append(int(given[0].lengths.sum())))
    assert np.array_equal(one.answers(one.forms, words, part, "fp32"), answers)
    assert len(np.unique(answers)) > 2
    assert sum(sizes) == part.lengths.sum() and max(sizes) < together + part.lengths.max()
    assert len(sizes) >= min(len(part.lengths), sum(sizes) // together)


@pytest.mark.parametrize("label", ["first", "last", "all"])
def test_a_tag_is_carried_to_the_pieces_that_the_knob_names(label):
    one = made("--text.tokenizer", "bpe", "--text.vocabulary", "400", "--text.label", label)
    loaded = one.load("valid", np.arange(7), 0)
    tokens = [(n, t) for n in range(7) for t in range(one.parts["valid"].starts[n], one.parts["valid"].ends[n])]
    flat = loaded.pieces.flatten()[loaded.carriers].tolist()
    tokenizer, expected, owners = one.learnt.encoder.cutter.tokenizer, [], []
    for number, (_, token) in enumerate(tokens):
        word = one.corpus.words[one.corpus.word_ids[token]]
        pieces = tokenizer(["x", word], is_split_into_words=True)
        pieces = [id for id, w in zip(pieces["input_ids"], pieces.word_ids(), strict=True) if w == 1]
        chosen = {"first": pieces[:1], "last": pieces[-1:], "all": pieces}[label]
        expected += chosen
        owners += [number] * len(chosen)
    assert flat == expected
    assert len(expected) > len(tokens) or label != "all"
    assert owners == (list(range(len(tokens))) if loaded.words is None else loaded.words.tolist())
    truth = [one.corpus.tags[one.corpus.tag_ids[token]] for _, token in tokens]
    assert [one.tags[k] for k in loaded.tags.tolist()] == truth


def test_with_all_pieces_a_word_gets_what_they_find_together():
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.5, 0.0], [0.0, 1.5, 0.0], [0.0, 0.0, 1.0]])
    found = task.of_words(logits, torch.tensor([0, 0, 0, 1]), 2)
    assert found.argmax(1).tolist() == [1, 2]
    torch.testing.assert_close(found[0], logits[:3].log_softmax(1).sum(0))


@pytest.mark.parametrize("longest", [1, 3, 7])
def test_long_sentences_are_cut_and_no_word_is_lost(longest):
    one = made("--text.tokenizer", "bpe", "--text.vocabulary", "400", "--text.max-length", str(longest))
    whole = made("--text.tokenizer", "bpe", "--text.vocabulary", "400")
    for split in ("train", "valid", "test"):
        part, uncut = one.parts[split], whole.parts[split]
        tokens = [t for a, b in zip(part.starts, part.ends, strict=True) for t in range(a, b)]
        assert tokens == [t for a, b in zip(uncut.starts, uncut.ends, strict=True) for t in range(a, b)]
        assert part.lengths.max() <= longest
        assert len(part.starts) > len(uncut.starts)
        pieces = one.forms.counts
        for a, b, n in zip(part.starts, part.ends, part.lengths, strict=True):
            assert n == pieces[one.corpus.word_ids[a:b]].sum()
    sentence = ["Очень", "длинная", "строка"] * 50
    assert len(one.tagged([sentence])[0]) == 150
    assert one.tagged([]) == []


def test_of_the_tokens_only_those_asked_for_are_looked_at():
    words = np.full(1000, 10**9)  # there is no such word
    words[10:16], words[900:903] = [0, 1, 2, 1, 0, 1], [2, 0, 1]
    part = batches.cut(words, np.array([10, 900]), np.array([16, 903]), np.array([1, 2, 3]), 4)
    assert part.starts.tolist() == [10, 12, 13, 15, 900, 902]
    assert part.ends.tolist() == [12, 13, 15, 16, 902, 903]
    assert part.lengths.tolist() == [3, 3, 3, 2, 4, 2]


def test_only_words_that_are_used_are_encoded():
    one, dataset = made("--model.features", "both"), task.load(config.parse(Config, SMALL))
    few = task.Tagging(one.config, one.learnt, replace(dataset, train=task.NONE, valid=task.NONE))
    words = {word for n in dataset.test for word in one.corpus.sentence(int(n))[0]}
    assert len(few.forms.shapes) == len(few.unseen) == len(words) < len(one.forms.shapes) == len(one.corpus.words)
    for a, b in zip(few.load("test", np.arange(9), 0), one.load("test", np.arange(9), 0), strict=True):
        assert a is b is None or torch.equal(a, b)


def test_words_are_dropped_as_often_as_they_are_rare_and_anew_each_epoch():
    one = made("--model.word-dropout", "1", "--text.vocabulary", "5000")
    ids = np.arange(len(one.parts["train"].starts))
    classes = one.learnt.encoder.cutter.classes
    often = {1: [], 5: []}
    seen = [one.load("train", ids, epoch).pieces for epoch in (1, 2, 1)]
    assert torch.equal(seen[0], seen[2]) and not torch.equal(seen[0], seen[1])
    plain = one.load("valid", np.arange(20), 0)
    assert torch.equal(plain.pieces, one.load("valid", np.arange(20), 5).pieces)
    lower = {}
    for form, n in zip(one.corpus.words, batches.occurrences(one.corpus, task.load(one.config).train), strict=True):
        lower[form.lower()] = lower.get(form.lower(), 0) + n
    part = one.parts["train"]
    tokens = np.concatenate([np.arange(a, b) for a, b in zip(part.starts, part.ends, strict=True)])
    for epoch in range(1, 6):
        loaded = one.load("train", ids, epoch)
        pieces = loaded.pieces.flatten()[loaded.carriers].tolist()
        for piece, token in zip(pieces, tokens, strict=True):
            n = lower[one.corpus.words[one.corpus.word_ids[token]].lower()]
            if n in often:
                often[n].append(piece < 2 + len(classes))
    for n, dropped in often.items():
        assert len(dropped) > 300
        assert np.mean(dropped) == pytest.approx(1 / (1 + n), abs=4 * (0.25 / len(dropped)) ** 0.5)


def test_unknown_words_are_told_by_shape_and_ending():
    from collections import Counter

    counts = Counter(
        {"дом": 9, **{f"{stem}ами": 1 for stem in ("лес", "стол", "рук", "ног")}, "Анна": 1, "Инна": 1, "Жанна": 1}
    )
    encoder = Encoder.train(Config(text=Text(vocabulary=40), model=Model(features="endings")), counts, list)
    words = encoder.cutter
    [[a], [b], [c], [known]] = words.pieces(["глазами", "ушами", "Сусанна", "ДОМ"])
    assert a == b != c
    assert words.classes[a - 2] == "lower ами" and words.classes[c - 2] == "Title нна"
    assert words.words[known - 2 - len(words.classes)] == "дом"
    assert words.pieces(["12"]) == [[1]]  # nothing like it was seen
    forms = encoder.encode(["глазами", "дом", "дома"])
    n = AFFIXES.index(next(affix for affix in AFFIXES if affix("глазами") == "ами"))
    assert encoder.affixes[n][forms.affixes[0, n] - 1] == "ами"
    restored = Encoder.restore(encoder.config, encoder.state())
    for name, value in vars(restored.encode(["глазами", "дом", "Эхо"])).items():
        assert np.array_equal(value, getattr(encoder.encode(["глазами", "дом", "Эхо"]), name))


def test_shapes():
    names = ["lower", "Title", "UPPER", "MiXed", "123", "a1", "latin", "...", "-", "☺"]
    words = ["мама", "Мама", "США", "МиГ", "1990", "5-й", "Windows", ",", "—", "😊"]
    assert [shape(word) for word in words] == [names.index(name) for name in names]
    assert len({tuple(fingerprints([a])) for a in words}) == len(words)


def test_the_dictionary_says_what_a_word_may_be():
    known = Dictionary.installed()
    found = [
        {name for name, p in zip(known.grammemes, row, strict=True) if p > 0.001}
        for row in map(known.look_up, ["стали", "мама", ","])
    ]
    assert {"VERB", "NOUN", "past"} <= found[0]
    assert {"NOUN", "nomn", "femn"} <= found[1] and not {"VERB", "gent"} & found[1]
    assert found[2] == {"PNCT"}
    one = made("--model.dictionary")
    loaded = one.load("valid", np.arange(5), 0)
    words = [one.corpus.words[n] for n in np.flatnonzero(one.numbers)]
    assert len(np.unique(one.forms.dictionary, axis=0)) == len(one.forms.dictionary) < len(words) / 2
    for word, said in zip(words, one.forms.dictionary[one.forms.answers[1:]], strict=True):
        assert np.array_equal(said, known.look_up(word))
    assert loaded.dictionary.shape == (len(loaded.shapes), len(known.grammemes))


def test_a_run_keeps_its_columns_of_the_dictionary_whatever_is_installed(tmp_path, capsys, monkeypatch):
    import pymorphy3

    flags = [*SMALL, "--model.dictionary", "--fit.epochs", "1", "--fit.batch-size", "64", "--run", "r"]
    assert main(["train", *flags]) == 0
    capsys.readouterr()
    assert main(["predict", "r", "Мама мыла раму."]) == 0
    before = capsys.readouterr().out
    analyzer = pymorphy3.MorphAnalyzer(lang="ru")
    installed = {*analyzer.TagClass.KNOWN_GRAMMEMES, "AAAA", "Mmmm"}  # other columns come before those of training
    other = SimpleNamespace(parse=analyzer.parse, TagClass=SimpleNamespace(KNOWN_GRAMMEMES=installed))
    monkeypatch.setattr(pymorphy3, "MorphAnalyzer", lambda lang: {"ru": other}[lang])
    assert main(["predict", "r", "Мама мыла раму."]) == 0
    assert capsys.readouterr().out == before
    installed -= {"NOUN"}
    assert main(["predict", "r", "Мама мыла раму."]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "(NOUN): install pymorphy3==" in line


def test_morphology_is_one_value_for_each_attribute():
    known = Morphology.train(["Case=Nom|Number=Sing", "Case=Gen", "_"])
    assert known.encode(["_", "Case=Gen|Number=Sing", "Case=Voc|Tense=Past"]).tolist() == [[0, 0], [2, 1], [0, 0]]
    assert known.sizes == [3, 2]
    assert Morphology.train([]).encode(["_", "_"]).shape == (2, 0)


def test_scores_are_those_counted_by_hand(tmp_path):
    one = made("--model.features", "endings")
    alive(one.model)
    from etude.train.device import Device
    from etude.train.step import evaluate

    totals = evaluate(one, "test", Device(CPU, "fp32"), 16)
    text, object = task.describe(one, totals)
    dataset = task.load(one.config)
    pairs = [one.corpus.sentence(int(n)) for n in dataset.test]
    seen = {word for n in dataset.train for word in one.corpus.sentence(int(n))[0]}
    found = one.tagged([words for words, _ in pairs])
    rows = [
        (w, a, b)
        for tags, (words, truth) in zip(found, pairs, strict=True)
        for w, a, b in zip(words, tags, truth, strict=True)
    ]
    assert object["words"] == len(rows)
    assert object["accuracy"] == pytest.approx(np.mean([a == b for _, a, b in rows]))
    new = [a == b for w, a, b in rows if w not in seen]
    assert 0 < len(new) < len(rows)
    assert object["unseen_accuracy"] == pytest.approx(np.mean(new))
    scores = []
    for tag in {a for _, a, _ in rows} | {b for _, _, b in rows}:
        hits = sum(a == b == tag for _, a, b in rows)
        scores.append(2 * hits / (sum(a == tag for _, a, _ in rows) + sum(b == tag for _, _, b in rows)))
    assert object["macro_f1"] == pytest.approx(np.mean(scores))
    a, b = object["tags"].index("NOUN"), object["tags"].index("VERB")
    assert object["confusion"][a][b] == sum(x == "VERB" and y == "NOUN" for _, x, y in rows)
    assert f"accuracy {object['accuracy']:.2%}" in text


@pytest.mark.parametrize("flags", [["--fit.batch-size", "3", "--fit.accumulate", "2"], ["--fit.batch-size", "1"]])
def test_batch_norm_can_do_with_one_word(flags, tmp_path, capsys):
    file = conllu(tmp_path / "short.conllu", *["ау/INTJ", "мама/NOUN мыла/VERB"] * 6)
    assert main(["train", "--run", "r", "--data", file, "--model.batch-norm", "--fit.epochs", "2", *flags]) == 0
    capsys.readouterr()


def test_a_row_alone_is_normalised_by_what_earlier_ones_had():
    torch.manual_seed(0)
    norm = BatchNorm(3)
    norm(torch.randn(50, 3) * 4 + 2)
    row, mean, var = torch.randn(1, 3), norm.running_mean.clone(), norm.running_var.clone()
    torch.testing.assert_close(norm(row), (row - mean) / (var + norm.eps).sqrt())
    assert torch.equal(norm.running_mean, mean) and torch.equal(norm.running_var, var)
    rows = torch.randn(2, 3)
    torch.testing.assert_close(norm(rows), torch.nn.BatchNorm1d(3)(rows))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    flags = ["--model.embedding", "32", "--model.hidden", "32", "--model.features", "endings", "--fit.lr", "1e-2"]
    assert main(["train", "--run", str(folder), *flags, "--fit.epochs", "3", "--data.documents", "250"]) == 0
    return folder


def conllu(path, *sentences):
    lines = []
    for sentence in sentences:
        rows = [pair.split("/") for pair in sentence.split()]
        lines += [f"{n}\t{w}\t_\t{t}\t_\t_\t0\troot\t_\t_" for n, (w, t) in enumerate(rows, 1)] + [""]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def test_predict_takes_texts_files_and_standard_input(trained, tmp_path, capsys, monkeypatch):
    text = "Мама мыла раму. Они пришли домой!"
    assert main(["predict", str(trained), text]) == 0
    printed = capsys.readouterr().out
    words = [line.split("\t")[0] for line in printed.splitlines()]
    assert words == ["Мама", "мыла", "раму", ".", "", "Они", "пришли", "домой", "!"]
    assert all(line.split("\t")[1].isupper() for line in printed.splitlines() if line)
    (tmp_path / "text.txt").write_text(text + "\n\n", encoding="utf-8")
    assert main(["predict", str(trained), "text.txt"]) == 0
    assert capsys.readouterr().out == printed
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(text.encode())))
    assert main(["predict", str(trained), "-"]) == 0
    assert capsys.readouterr().out == printed
    file = conllu(tmp_path / "cut.conllu", "Мама/X мыла/X раму/X ./X", "Они/X пришли/X домой/X !/X")
    assert main(["predict", str(trained), file]) == 0
    assert capsys.readouterr().out == printed


def test_predict_tags_untagged_conllu_and_writes_nothing(trained, tmp_path, capsys):
    words = "Мама мыла раму .".split()
    assert main(["predict", str(trained), conllu(tmp_path / "tagged.conllu", " ".join(f"{w}/X" for w in words))]) == 0
    printed = capsys.readouterr().out
    assert [line.split("\t")[0] for line in printed.splitlines()] == words
    file = conllu(tmp_path / "untagged.conllu", " ".join(f"{w}/_" for w in words))
    (tmp_path / "untagged.conllu.gz").write_bytes(gzip.compress((tmp_path / "untagged.conllu").read_bytes()))
    before = sorted(tmp_path.rglob("*"))
    for name in (file, f"{file}.gz"):
        assert main(["predict", str(trained), name]) == 0
        assert capsys.readouterr().out == printed
    assert sorted(tmp_path.rglob("*")) == before
    for verb in (["evaluate", str(trained), "--data", file], ["train", "--data", file]):
        assert main(verb) == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert f"{file}, line 1: the word has no tag in column UPOS" in line


def test_predict_as_conllu_keeps_all_of_a_file_but_its_tags(trained, tmp_path, capsys):
    before = (
        "# newdoc id = a\n# sent_id = first\n# text = Мама мылару.\n"
        "1\tМама\tмама\t_\tNN\tCase=Nom\t2\tnsubj\t_\t_\n2-3\tмылару\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No\n"
        "2\tмыла\tмыть\t_\tVB\t_\t0\troot\t_\t_\n3\tраму\tрама\t_\tNN\t_\t2\tobj\t_\t_\n3.1\tона\t_\tPRON\t_\t_\t_\t_\t_\t_\n"
        "4\t.\t.\t_\t.\t_\t2\tpunct\t_\t_\n\n"
        "# sent_id = second\n1\tОни\tони\t_\t_\t_\t0\troot\t_\t_\n"
    )
    (tmp_path / "a.conllu").write_bytes(b"\xef\xbb\xbf" + before.replace("\n", "\r\n").encode())
    (tmp_path / "a.conllu.gz").write_bytes(gzip.compress(before.encode()))
    assert main(["predict", str(trained), "a.conllu"]) == 0
    tags = [line.split("\t")[1] for line in capsys.readouterr().out.splitlines() if line]
    assert len(tags) == 5 and not {"_", ""} & set(tags)
    following = iter(tags)
    expected = [
        "\t".join([*columns[:3], next(following), *columns[4:]]) if columns[0].isdigit() else line
        for line in before.split("\n")
        for columns in [line.split("\t")]
    ]
    for name in ("a.conllu", "a.conllu.gz"):
        assert main(["predict", str(trained), name, "--format", "conllu"]) == 0
        assert capsys.readouterr().out.splitlines() == expected
    assert main(["predict", str(trained), "Они.", "a.conllu", "Мама.", "--format", "conllu"]) == 0
    out = capsys.readouterr().out.splitlines()
    numbers = [line.removeprefix("# sent_id = ") for line in out if line.startswith("# sent_id")]
    assert numbers == ["1", "first", "second", "4"]


def test_a_long_text_is_no_file_name_and_a_slash_no_folder(trained, capsys):
    assert main(["predict", str(trained), "Мама мыла раму и папа читал газету. " * 10]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10 * 9 - 1
    assert main(["predict", str(trained), "и/или"]) == 0
    capsys.readouterr()
    assert main(["predict", str(trained), "мама \udcff"]) == 2
    assert "is not UTF-8" in capsys.readouterr().err


def test_a_folder_named_like_the_data_set_changes_nothing(trained, tmp_path, capsys):
    assert main(["evaluate", str(trained)]) == 0
    before = capsys.readouterr().out
    (tmp_path / "sample").mkdir()
    assert main(["evaluate", str(trained)]) == 0
    assert capsys.readouterr().out == before


def test_predict_writes_conllu_that_evaluate_scores_as_right(trained, capsys):
    text = "Мама (моя) мыла раму… Они пришли домой: «всё»!"
    assert main(["predict", str(trained), text, "--format", "conllu", "--out", "tagged.conllu"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["evaluate", str(trained), "--data", "tagged.conllu"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["words"] == 15
    assert scores["accuracy"] >= 13 / 15  # predict may compute in bf16
    assert main(["predict", str(trained), text, "--format", "xml"]) == 2
    assert "format must be one of text, conllu" in capsys.readouterr().err


def test_a_file_of_its_own_is_scored_whole_and_the_training_data_by_the_test_part(trained, tmp_path, capsys):
    file = conllu(tmp_path / "own.conllu", "Мама/NOUN мыла/VERB", "ау/ODD")
    assert main(["evaluate", str(trained), "--data", file]) == 0
    out = capsys.readouterr().out
    scores = json.loads(out.splitlines()[-1])
    assert scores["words"] == 3
    assert "ODD" in scores["tags"]
    assert scores["per_class"]["ODD"]["recall"] == 0
    assert "all 2 sentences (3 words)" in out
    assert main(["evaluate", str(trained)]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    dataset = data.load("sample", 0, 250)
    assert scores["words"] == sum(len(dataset.corpus.sentence(int(n))[0]) for n in dataset.test)
    assert main(["evaluate", str(trained), "--data.documents", "100"]) == 2  # of which most were trained on
    assert "was trained on (name sample, documents 250" in capsys.readouterr().err


def test_the_data_of_training_are_told_by_what_is_in_them(tmp_path, capsys, monkeypatch):
    """Under any name, in any place: by the run's own test part or not at all."""

    def evaluated(*flags):
        code = main(["evaluate", str(tmp_path / "run"), *flags])
        found = capsys.readouterr()
        if code == 0:
            return json.loads(found.out.splitlines()[-1])
        *reading, refusal = found.err.splitlines()
        assert all(line.startswith("reading ") for line in reading)
        return refusal

    file, text = tmp_path / "some.conllu", sample.text()
    file.write_bytes(text)
    flags = ["--model.embedding", "8", "--model.hidden", "8", "--fit.epochs", "1", "--fit.batch-size", "256"]
    assert main(["train", "--run", "run", "--data", "some.conllu", *flags]) == 0
    capsys.readouterr()
    own = evaluated()
    assert 0 < own["words"] < len(data.load("sample", 0).corpus.word_ids) / 5
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")  # config.yaml says where it lies
    assert evaluated() == own
    (tmp_path / "copy.conllu.gz").write_bytes(gzip.compress(text, 1))
    assert evaluated("--data", "../copy.conllu.gz") == own
    assert evaluated("--data", "sample") == own
    (tmp_path / "longer.conllu").write_bytes(text + text[: text.index(b"\n\n") + 2])
    for name in ("../some.conllu", "../copy.conllu.gz", "../longer.conllu", "sample"):
        for other in ("--data.documents=3", "--data.held-out=0.2", "--fit.seed=1"):
            assert "has what this run was trained on (name" in evaluated("--data", name, other)
    assert "has what this run was trained on" in evaluated("--data", "../longer.conllu")
    for changed in (text.replace(b"\tVERB\t", b"\tX\t", 1), text + text[: text.index(b"\n\n") + 2]):
        (tmp_path / "some.conllu").write_bytes(changed)
        assert "some.conllu was changed since this run was trained on it" in evaluated()
        assert "was changed since" in evaluated("--data", "../some.conllu")


def test_of_other_data_no_sentence_is_scored_that_the_run_was_trained_on_or_chosen_by(trained, tmp_path, capsys):
    def evaluated(run, *sentences):
        (tmp_path / "other.conllu").write_bytes(b"\n\n".join(sentences) + b"\n\n")
        code = main(["evaluate", str(run), "--data", "other.conllu"])  # all of it, not as much as was trained on
        found = capsys.readouterr()
        return (found.out, json.loads(found.out.splitlines()[-1])["words"]) if code == 0 else found.err.splitlines()[-1]

    capsys.readouterr()
    dataset = data.load("sample", 0, 250)
    written = sample.text().rstrip().split(b"\n\n")
    read = [written[n] for part in (dataset.train, dataset.valid) for n in part]
    test = [written[n] for n in dataset.test]
    words = sum(len(dataset.corpus.sentence(int(n))[0]) for n in dataset.test)
    other = [b"1\tok\t_\tX\t_\t_\t0\troot\t_\t_"]  # a first sentence of its own: it does not begin as training does
    said, scored = evaluated(trained, *other, *reversed(read), *test)
    assert scored == words + 1
    left = f"{len(read):,} sentences that the run was trained on left out"
    assert f"{len(test) + 1} sentences ({words + 1:,} words); {left}" in said
    retagged = [sentence.replace(b"\tNOUN\t", b"\tX\t") for sentence in read]
    assert evaluated(trained, *other, *retagged, *test)[1] == words + 1  # its tags are no other sentence
    said, scored = evaluated(trained, *other, *test)
    assert f"all {len(test) + 1} sentences ({words + 1:,} words)" in said and scored == words + 1
    refused = evaluated(trained, *reversed(read))
    assert f"the run was trained on all {len(read):,} sentences of" in refused
    assert refused.endswith("other.conllu: evaluate on other --data")
    assert main(["evaluate", str(trained)]) == 0  # of its own data nothing is left out
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["words"] == words

    shutil.copytree(trained, tmp_path / "older")
    state = checkpoint.read(tmp_path / "older", "best")
    del state["assets"]["read"]
    torch.save(state, tmp_path / "older" / "checkpoints" / "best.pt")
    assert "all 4 sentences" in evaluated(tmp_path / "older", *other, *read[2::-1])[0]


def test_a_sentence_of_its_own_test_part_is_scored_though_training_has_it_too(tmp_path, capsys):
    """What short sentences are like: the own test part stays as it was drawn, other data lose them."""
    one = "1\tда\t_\tPART\t_\t_\t0\troot\t_\t_\n2\tнет\t_\tVERB\t_\t_\t0\troot\t_\t_\n\n"
    (tmp_path / "same.conllu").write_text(one * 20, encoding="utf-8")
    (tmp_path / "other.conllu").write_text(one * 7 + one.replace("нет", "нету"), encoding="utf-8")
    flags = ["--model.embedding", "8", "--model.hidden", "8", "--fit.epochs", "1"]
    assert main(["train", "--run", "run", "--data", "same.conllu", *flags]) == 0
    assert main(["evaluate", "run"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["words"] == 4
    assert main(["evaluate", "run", "--data", "other.conllu"]) == 0
    said = capsys.readouterr().out
    assert "1 sentences (2 words); 7 sentences that the run was trained on left out" in said
    assert json.loads(said.splitlines()[-1])["words"] == 2


def test_of_a_run_on_some_documents_no_others_of_the_file_are_taken_for_its_own(trained, tmp_path, capsys):
    (tmp_path / "copy.conllu").write_bytes(sample.text())
    for documents, code in ((250, 0), (3, 2), (251, 2), (0, 2)):
        assert main(["evaluate", str(trained), "--data", "copy.conllu", f"--data.documents={documents}"]) == code
    capsys.readouterr()


def test_a_file_whose_tags_training_does_not_know_has_no_loss(trained, tmp_path, capsys):
    file = conllu(tmp_path / "odd.conllu", "Мама/ODD мыла/ODD", "ау/ODD")
    assert main(["evaluate", str(trained), "--data", file]) == 0
    *text, scores = capsys.readouterr().out.splitlines()
    assert "loss none" in text[-1]
    assert json.loads(scores)["accuracy"] == 0 and "loss" not in json.loads(scores)


def test_the_loss_is_the_mean_over_the_words_whose_tags_training_knows(trained, tmp_path, capsys):
    losses = []
    for last in ("./PUNCT", "./ODD"):
        file = conllu(tmp_path / "some.conllu", f"Мама/NOUN мыла/VERB раму/NOUN {last}")
        assert main(["evaluate", str(trained), "--data", file]) == 0
        losses.append(json.loads(capsys.readouterr().out.splitlines()[-1])["loss"])
    parsed, state = run.read_config(trained, Config), checkpoint.read(trained)
    one = task.restore(parsed, state["assets"])
    checkpoint.fill(one.model, state, trained)
    names = ["Мама", "мыла", "раму", "."]
    found = batches.batch(one.learnt.encoder.encode(names), np.arange(4), np.array([4]), "first")
    odds = one.model.eval()(found)[0][0].log_softmax(1).detach()
    every = [-float(odds[n, one.tags.index(tag)]) for n, tag in enumerate(["NOUN", "VERB", "NOUN", "PUNCT"])]
    assert losses == pytest.approx([np.mean(every), np.mean(every[:3])], rel=1e-4)


def test_the_confusion_matrix_says_how_many_sentences_it_counts(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(task.confusion, "picture", lambda counts, tags, what: said.append((int(counts.sum()), what)))
    monkeypatch.setattr(task, "COUNTED", 20)
    one = made()
    one.show(SimpleNamespace(picture=lambda *_: None, text=lambda *_: None), "after", 0)
    part = one.parts["valid"]
    [(count, what)] = said
    assert what == f"words of 20 of its {len(part.starts)} sentences"
    assert count < (part.ends - part.starts).sum()


def test_the_summary_says_whose_the_lstm_is():
    assert made().summary.endswith("words, LSTM: etude.layers.recurrent")


def test_a_run_leaves_sentences_before_during_and_after(trained):
    found = {file.name for file in (trained / "samples").iterdir()}
    wanted = {"most-wrong.md", "confusion.png", "sentences-end.md", *(f"sentences-epoch-00{n}.md" for n in range(4))}
    assert found == wanted
    tables = [(trained / "samples" / f"sentences-{n}.md").read_text().splitlines() for n in ("epoch-000", "end")]
    assert [len(t) for t in tables] == [2 + task.SHOWN] * 2
    errors = [sum(int(line.split()[1]) for line in t[2:]) for t in tables]
    assert errors[0] > errors[1]
    for line in tables[0][2:]:
        assert line.count("≠") == int(line.split()[1])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--text.vocabulary", "0"], "text.vocabulary must be at least 1, not 0"),
        (["--text.tokenizer", "bpe", "--text.vocabulary", "100"], "too small"),
        (["--text.tokenizer", "pretrained", "--text.pretrained", "./nowhere"], "nowhere"),
        (["--data", "nowhere.conllu"], "nowhere.conllu"),
        (["--data", "neurs"], "choose sample, nerus, or the path"),
        (["--data.documents", "2"], "2 documents"),
        (["--data.held-out", "0.5"], "data.held-out is a part"),
        (
            ["--data", "plain.conllu", "--model.morphology", "0.3"],
            "plain.conllu is empty: leave out --model.morphology",
        ),
        (["--model.dropout", "1"], "model.dropout is a probability"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(flags, message, capsys, tmp_path):
    conllu(tmp_path / "plain.conllu", *["мама/NOUN"] * 9)
    assert main(["train", *flags]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in line
    assert not (tmp_path / "runs").exists()


def test_inputs_that_cannot_be_read_are_named(trained, tmp_path, capsys):
    (tmp_path / "broken.txt").write_bytes("мама\nмыла ".encode() + b"\xff\n")
    (tmp_path / "empty.txt").write_text("\n \n")
    wrong = {
        "broken.txt": "line 2",
        "empty.txt": "no word",
        "": "no word",
        "x.conllu": "x.conllu",
        "x.txt": "no file x.txt",
        "my reviews.txt": "no file my reviews.txt",
        "missing/x.csv": "no file missing/x.csv",
    }
    for given, message in wrong.items():
        assert main(["predict", str(trained), given, "--out", "out.txt"]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
        assert not (tmp_path / "out.txt").exists()


def test_presets_and_studies_that_install_with_the_package_can_be_parsed():
    studies = [
        "batch-norm",
        "direction",
        "dropout",
        "hidden-search",
        "hidden-size",
        "layers",
        "pretrained",
        "tokenizer",
        "vocabulary",
    ]
    check_presets(PACKAGE, ["best"], studies)


def test_pieces_of_a_pretrained_tokenizer_from_a_folder(tmp_path, capsys):
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    one = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    one.normalizer, one.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    corpus = made().corpus
    texts = [" ".join(corpus.sentence(n)[0]) for n in range(300)]
    one.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[PAD]"])
    )
    one.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    saved = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    PreTrainedTokenizerFast(tokenizer_object=one, **saved).save_pretrained(tmp_path / "pieces")
    flags = [*SMALL, "--text.tokenizer", "pretrained", "--text.pretrained", str(tmp_path / "pieces")]
    assert main(["train", *flags, "--fit.epochs", "2", "--run", "r"]) == 0
    (tmp_path / "pieces").rename(tmp_path / "gone")
    capsys.readouterr()
    assert main(["predict", "r", "Мама мыла раму."]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.real_data
def test_real_sentences_are_learnt(tmp_path, capsys):
    root = os.environ["ETUDE_DATA"]
    flags = ["--data", "nerus", "--model.features", "endings", "--fit.epochs", "4", "--run", "run"]
    assert main(["train", *flags]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "--data", f"{root}/ud/ru_taiga-ud-dev.conllu"]) == 0
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert scores["words"] == 10_094
    assert scores["accuracy"] > 0.84  # seeds 0, 1, 2: 85.9, 84.2, 84.3 %
    assert scores["unseen_accuracy"] > 0.74
    assert data.load("nerus", 0).name == "nerus"
