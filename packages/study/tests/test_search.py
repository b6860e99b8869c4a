"""Searches: which points are tried, that a kill changes nothing, and that what is reported was not chosen by."""

import csv
import dataclasses
import itertools
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from searched.config import PACKAGE, Config
from searched.score import score

from etude.errors import UserError
from etude.study import bayes
from etude.study.command import main, run
from etude.study.file import dump, load
from etude.study.jobs import claimed
from etude.study.outcome import Outcome, conclude, kept, summarise
from etude.study.question import TUNING, Range, Study
from etude.study.search import best_so_far, expected_best, found, stages
from etude.study.space import sobol, with_types

LR = "{from: 1e-4, to: 1e-1, scale: log}"
QUASI = f"""
question: Which kernel?
compare: {{model.kernel: [1, 3]}}
tune: {{fit.lr: {LR}, model.dropout: {{from: 0, to: 0.5}}}}
search: quasi
trials: 16
seeds: 3
metric: accuracy
expect:
  - {{claim: "1 = 3", margin: 0.01, because: "both are as good at their best"}}
"""
BAYES = QUASI.replace("quasi", "bayes")


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEARCHED_LOG", str(tmp_path / "trained.log"))
    return tmp_path / "trained.log"


def written(text: str, name: str = "mine.yaml") -> Study:
    Path(name).write_text(text, encoding="utf-8")
    return load(name, "searched", PACKAGE.scores)


def carried_out(text: str, out: str = "out", jobs: int = 1) -> Outcome:
    return run(written(text), "searched", Path(out), [], jobs, Config)


def points_in(out: str, setting: str = "kernel=3") -> list[dict[str, str]]:
    return json.loads(Path(out, "search.json").read_text())["points"][setting]


def told(outcome: Outcome) -> list[tuple[str, int, float | None, float | None]]:
    return [(run.trial.group, run.trial.seed, run.valid, run.test) for run in outcome.runs]


# ------------------------------------------------------------------------------------------------------- the points


def test_a_point_is_written_short_lies_in_its_range_and_where_it_should() -> None:
    for space in (Range(1e-4, 3e-2, True), Range(0, 0.5), Range(1000, 1001), Range(-3, 7), Range(1e-9, 2e-9, True)):
        for place in [*torch.rand(300, generator=torch.Generator().manual_seed(0)).tolist(), 0.0, 1.0]:
            word = space.at(place)
            assert space.low <= float(word) <= space.high
            assert space.place(float(word)) == pytest.approx(place, abs=1.001e-4)
            assert len(re.sub(r"e[-+]\d+|[-.]|^0+", "", word)) <= 8


def test_whole_numbers_have_equal_parts_of_a_range() -> None:
    n = 6000
    for space in (Range(1, 6, whole=True), Range(1, 6, True, whole=True)):
        drawn = [int(space.at((i + 0.5) / n)) for i in range(n)]
        width = math.log(6.5 / 0.5)
        for value in range(1, 7):
            part = math.log((value + 0.5) / (value - 0.5)) / width if space.log else 1 / 6
            assert drawn.count(value) / n == pytest.approx(part, abs=2 / n)


def test_quasi_points_are_fixed_fill_every_knob_evenly_and_go_on() -> None:
    study = with_types(written(QUASI), Config)
    few, many = sobol(study, 16), sobol(study, 64)
    assert many[:16] == few
    assert few[:3] == [
        {"fit.lr": "0.002663", "model.dropout": "0.2963"},
        {"fit.lr": "0.00545", "model.dropout": "0.0186"},
        {"fit.lr": "0.0711", "model.dropout": "0.4312"},
    ]
    for knob, space in study.tune.items():  # a point in each sixteenth of each range
        assert sorted(int(16 * space.place(float(point[knob]))) for point in few) == list(range(16))


def test_points_that_are_written_alike_are_tried_once() -> None:
    study = with_types(
        written(
            QUASI.replace(LR, "[1e-3, 1e-2]").replace(
                "model.dropout: {from: 0, to: 0.5}", "model.hidden: {from: 1, to: 5}"
            )
        ),
        Config,
    )
    points = sobol(study, 10)
    assert {tuple(point.values()) for point in points} == set(itertools.product(["1e-3", "1e-2"], "12345"))
    with pytest.raises(UserError, match=r"^mine.yaml: trials: 11 is too many, as only 10 points differ$"):
        sobol(study, 11)


@pytest.mark.parametrize(
    "at", [(lr, dropout) for lr in (2e-4, 1e-3, 3e-3, 1.7e-2, 6e-2) for dropout in (0.03, 0.2, 0.41)]
)
def test_quasi_16_comes_within_one_percent_of_a_grid_of_64(at: tuple[float, float]) -> None:
    """Wherever the optimum lies: 64 runs of a grid try 8 learning rates, and 16 of a search 16."""
    study = with_types(written(QUASI), Config)

    def worth(lr: float, dropout: float) -> float:
        return 0.9 - 0.08 * math.log10(lr / at[0]) ** 2 - 0.2 * (dropout - at[1]) ** 2

    grid = [worth(1e-4 * 10 ** (3 * i / 7), 0.5 * j / 7) for i in range(8) for j in range(8)]
    quasi = [worth(float(p["fit.lr"]), float(p["model.dropout"])) for p in sobol(study, 16)]
    assert max(quasi) > 0.99 * max(grid)


# ------------------------------------------------------------------------------------------------------- whole searches


@pytest.mark.parametrize("text", [QUASI, BAYES])
def test_the_best_point_of_each_setting_is_run_on_seeds_it_was_not_chosen_by(
    text: str, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = carried_out(text)
    assert not outcome.problems
    tuning, reported = ([r for r in outcome.runs if r.trial.tuning is which] for which in (True, False))
    assert {r.trial.seed for r in tuning} == {TUNING}
    assert {r.trial.seed for r in reported} == {0, 1, 2}
    assert (len(tuning), len(reported)) == (32, 6)
    assert all(r.test is None for r in tuning)  # the test part has no say in the choice
    assert len(log.read_text().splitlines()) == len(set(log.read_text().splitlines())) == 38
    for row, best in zip(outcome.rows, (0.006, 0.002), strict=True):
        kernel = int(row.setting["model.kernel"])
        every = [r for r in tuning if r.trial.of == row.of]
        assert row.tuned == max(every, key=lambda r: r.valid).trial.tuned
        lr, dropout = float(row.tuned["fit.lr"]), float(row.tuned["model.dropout"])
        assert 0.5 < lr / best < 2
        assert row.valid == {s: pytest.approx(score(kernel, lr, dropout, s)) for s in range(3)}
        assert set(row.test) == {0, 1, 2}
    assert outcome.verdicts[0].verdict == "as expected"
    way = "quasi" if text == QUASI else "bayes"
    assert f"({way}) with seed 1000; all scores here are of other seeds." in Path("out/results.md").read_text()
    assert "best on validation: kernel=1 lr=" in capsys.readouterr().out
    if text == QUASI:
        assert points_in("out") == points_in("out", "kernel=1")
    else:
        assert points_in("out")[:8] == points_in("out", "kernel=1")[:8]
        assert points_in("out")[8:] != points_in("out", "kernel=1")[8:]

    # All that was concluded can be concluded from the folder and from results.csv, and a second time nothing is run.
    study = load("out/study.yaml", "searched", PACKAGE.scores)
    assert summarise(found(study, Path("out")), Path("out")).rows == outcome.rows
    again = conclude(study, kept(study, Path("out/results.csv")))
    assert (again.rows, again.verdicts, again.edges, again.problems) == (
        outcome.rows, outcome.verdicts, outcome.edges, outcome.problems,
    )  # fmt: skip
    assert told(carried_out(text)) == told(outcome)
    assert len(log.read_text().splitlines()) == 38


@pytest.mark.parametrize("text", [QUASI, BAYES])
def test_a_longer_search_goes_on_from_a_shorter_one(text: str, log: Path) -> None:
    carried_out(text.replace("16", "12"))
    short = points_in("out")
    outcome = carried_out(text)
    assert points_in("out")[:12] == short
    other = carried_out(text, "other")
    assert told(outcome) == told(other)
    lines = log.read_text().splitlines()[:-38]
    assert len(set(lines)) == len(lines)


KILLED = """
import sys
from pathlib import Path
from searched.config import PACKAGE, Config
from searched.score import score
from etude.study.command import run
from etude.study.file import load
run(load("mine.yaml", "searched", PACKAGE.scores), "searched", Path("killed"), [], 2, Config)
"""


@pytest.mark.parametrize("text", [QUASI, BAYES])
def test_a_search_that_is_killed_again_and_again_ends_as_if_it_was_not(
    text: str, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = text + "together: off\n"
    whole = carried_out(text, "whole", jobs=2)
    log.unlink()
    monkeypatch.setenv("SEARCHED_SLEEP", "0.05")
    for goal in (3, 17, 34):  # runs that are there: in the middle of a round, of the reported ones, ...
        process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 600
        while len(list(Path("killed").glob("*/*/result.json"))) < goal:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.01)
        process.kill()
        process.wait()
        while True:  # its runs live on, and hold the folder until they end
            try:
                with claimed(Path("killed")):
                    break
            except UserError:
                time.sleep(0.02)
        (journal,) = list(Path("killed").glob("kernel=3.journal")) or [None]
        if journal:
            with journal.open("a") as half:
                half.write('{"op_code": 4, "wor')  # as a full disk leaves it
    monkeypatch.setenv("SEARCHED_SLEEP", "0")
    ended = carried_out(text, "killed", jobs=2)
    assert told(ended) == told(whole)
    assert Path("killed/search.json").read_bytes() == Path("whole/search.json").read_bytes()
    assert ended.verdicts == whole.verdicts


def test_bayes_goes_on_wherever_its_asking_was_broken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal is cut after each of its lines in turn: what follows is the search that was not cut."""
    carried_out(BAYES, "whole")
    journal = Path("whole/kernel=3.journal").read_bytes().splitlines(keepends=True)
    want = points_in("whole")
    study = with_types(written(BAYES), Config)
    setting = {"model.kernel": "3"}
    for end in range(0, len(journal), 3):
        Path("whole/kernel=3.journal").write_bytes(b"".join(journal[:end]))
        one = bayes.Asking(study, setting, Path("whole"))
        while one.ask() or one.open():
            one.tell()
        assert [one.point(trial) for trial in one.trials()] == want, f"cut after line {end}"


def test_what_diverges_cannot_win_and_does_not_leave_the_study_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHED_DIVERGES", "0.004")
    for text in (QUASI, BAYES):
        outcome = carried_out(text + "together: off\n", "quasi" if text == QUASI else "bayes")
        assert not outcome.problems
        assert all(float(row.tuned["fit.lr"]) <= 0.004 for row in outcome.rows)
        failed = [line for line in outcome.edges if "this point cannot win" in line]
        assert len(failed) == sum(bool(run.problem) for run in outcome.runs) > 3
        assert "its last words: the loss became nan at step 7; this point cannot win" in failed[0]


def test_a_search_in_which_nothing_has_a_score_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHED_DIVERGES", "0")
    outcome = carried_out(QUASI.replace("trials: 16", "trials: 2") + "together: off\n")
    assert "kernel=3: no point of its search has a score" in outcome.problems
    assert [row.valid for row in outcome.rows] == [{}, {}]
    assert [verdict.verdict for verdict in outcome.verdicts] == ["unclear"]


def test_a_best_value_at_the_edge_is_said_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    Path("edge.yaml").write_text(QUASI.replace(LR, "{from: 1e-4, to: 1e-3, scale: log}"))
    assert main(PACKAGE, ["edge.yaml", "--out", "out"], "searched") == 0
    printed = capsys.readouterr().out
    wanted = r"lr=0.000\d+ is at the edge of its range, from 0.0001 to 0.001 \(kernel=3\): widen it"
    assert re.search(wanted, printed)
    assert re.search(wanted, Path("out/results.md").read_text())
    Path("within.yaml").write_text(QUASI)
    assert main(PACKAGE, ["within.yaml", "--out", "within"], "searched") == 0
    assert "lr=0.0" in (printed := capsys.readouterr().out) and not re.search("lr=.* is at the edge", printed)


def test_seeds_of_the_search_can_be_several(log: Path) -> None:
    outcome = carried_out(QUASI.replace("trials: 16", "trials: 4\ntuning_seeds: 2"))
    assert {run.trial.seed for run in outcome.runs if run.trial.tuning} == {1000, 1001}
    assert len(log.read_text().splitlines()) == 2 * 4 * 2 + 6
    row = outcome.rows[1]
    valid = {}
    for one in outcome.runs:
        if one.trial.tuning and one.trial.of == row.of:
            valid.setdefault(one.trial.group, []).append(one.valid)
    assert max(valid, key=lambda group: statistics.fmean(valid[group])) == next(
        run.trial.group for run in outcome.runs if run.trial.of == row.of and not run.trial.tuning
    )


def test_runs_of_another_point_than_the_best_are_no_results_of_the_study() -> None:
    carried_out(QUASI)
    with open("out/results.csv", newline="") as file:
        head, *lines = csv.reader(file)
    valid = head.index("valid_accuracy")
    worst = min((line for line in lines if line[0] == "3" and line[3] == "1000"), key=lambda line: float(line[valid]))
    worst[valid] = "0.99"  # now it is the best, and the reported runs are those of another
    with open("changed.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    with pytest.raises(UserError, match=r"^changed.csv: 3 .* is no run of the best point on validation; make it anew$"):
        kept(written(QUASI), Path("changed.csv"))


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("from: 1e-4", "from: 1e-1", "mine.yaml: tune: fit.lr: from: has to be below to, and 0.1 is not below 0.1"),
        ("from: 1e-4", "from: 1", "mine.yaml: tune: fit.lr: from: has to be below to, and 1 is not below 0.1"),
        ("from: 1e-4", "from: 0", "mine.yaml: tune: fit.lr: from: has to be above 0 where the scale is log, not 0"),
        ("from: 1e-4", "from: few", "mine.yaml: tune: fit.lr: from: has to be a number, not 'few', in a range like "),
        ("to: 1e-1, ", "", "mine.yaml: tune: fit.lr: to: has to be a number, not None, in a range like {from: 1e-4, "),
        ("to: 1e-1", "to: inf", "mine.yaml: tune: fit.lr: to: has to be a number, not 'inf', in a range like "),
        ("scale: log", "scale: cubic", "mine.yaml: tune: fit.lr: scale: has to be linear or log, not 'cubic'"),
        ("scale: log", "step: 2", "mine.yaml: tune: fit.lr: unknown key 'step' in a range; it has to be like {from:"),
        ("trials: 16", "trials: 0", "mine.yaml: trials: has to be a whole number from 1 up, not '0'"),
        ("trials: 16", "", "mine.yaml: trials: is missing; say how many points of the range are tried, like "),
        ("search: quasi", "search: random", "mine.yaml: search: has to be quasi or bayes, not 'random'"),
        ("seeds: 3", "seeds: 1001", "mine.yaml: seeds: has to be at most 1,000, as the search has those"),
        ("seeds: 3", "tuning_seeds: -1", "mine.yaml: tuning_seeds: has to be a whole number from 1 up, not '-1'"),
        ("model.dropout: {", "model.kernel: {", "mine.yaml: model.kernel stands in more than one of compare, "),
        ("seeds: 3", "fixed: {fit.lr: 1}", "mine.yaml: fit.lr stands in more than one of compare, "),
        ("model.dropout: {", "fit.seed: {", "mine.yaml: fit.seed cannot be set here: a study sets it for every run"),
        (LR, "[1e-3]", None),
        ("model.dropout: {from: 0, to: 0.5}", "model.cell: {from: 0, to: 1}",
         "mine.yaml: tune: model.cell must be one of rnn, lstm, and so cannot have a range; give a list"),
        ("model.dropout: {from: 0, to: 0.5}", "model.hidden: {from: 0.5, to: 8}",
         "mine.yaml: tune: model.hidden takes whole numbers; the range from 0.5 to 8 has to start and end with one"),
        ("to: 0.5", "to: 1", "model.dropout is a probability, from 0 to below 1, not 1.0"),
        ("model.dropout: {", "model.droput: {", "mine.yaml: there is no knob model.droput: did you mean 'model.d"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_refused_before_anything_is_run(
    old: str, new: str, says: str | None, log: Path
) -> None:
    if says is None:  # a list beside a range is fine
        assert not carried_out(QUASI.replace(old, new)).problems
        return
    Path("mine.yaml").write_text(QUASI.replace(old, new))
    with pytest.raises(UserError) as error:
        main(PACKAGE, ["mine.yaml", "--out", "out"], "searched")
    assert str(error.value).startswith(says) and "\n" not in str(error.value)
    assert not Path("out").exists() and not log.exists()


@pytest.mark.parametrize("key", ["search: quasi", "trials: 3", "tuning_seeds: 2"])
def test_a_grid_has_nothing_of_a_search(key: str) -> None:
    with pytest.raises(UserError, match=f"^mine.yaml: {key.split(':')[0]}: needs a range in tune to search, like"):
        written(f"question: q\ncompare: {{model.kernel: [1]}}\ntune: {{fit.lr: [1, 2]}}\n{key}\nmetric: accuracy\n")


def test_a_tuned_knob_cannot_be_given_by_a_flag() -> None:
    with pytest.raises(UserError, match="^--fit.lr is tuned by the study mine; leave it out"):
        run(written(QUASI), "searched", Path("out"), ["--fit.lr", "1"], 1, Config)


def test_optuna_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="^search: bayes needs Optuna, which is not installed: uv sync"):
        carried_out(BAYES)
    assert not Path("out").exists()
    assert not carried_out(QUASI).problems


def test_another_search_in_the_same_folder_is_refused() -> None:
    carried_out(QUASI)
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file() and path.name != ".lock"}
    for old, new in (("to: 0.5", "to: 0.4"), ("quasi", "bayes")):
        with pytest.raises(
            UserError, match=r"^out holds another search \(another (tune|search, metric, tuning_seeds)\)"
        ):
            carried_out(QUASI.replace(old, new))
    assert {p: p.read_bytes() for p in before} == before
    changed = json.loads(Path("out/search.json").read_text())
    changed["points"]["kernel=3"][4]["fit.lr"] = "0.01234"
    Path("out/search.json").write_text(json.dumps(changed))
    with pytest.raises(
        UserError, match="^out holds other points, as another version of torch has drawn them: remove it"
    ):
        carried_out(QUASI)
    Path("out/search.json").write_text("{")
    with pytest.raises(
        UserError, match=r"^out/search.json cannot be read \(.*\): remove out and start the study again$"
    ):
        carried_out(QUASI)


def test_a_journal_that_is_broken_or_of_another_search_is_refused() -> None:
    carried_out(BAYES)
    journal = Path("out/kernel=3.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:5], b"nonsense\n", *lines[5:]]))
    remedy = "remove it, and search.json beside it, and start the study again$"
    with pytest.raises(UserError, match=rf"^out/kernel=3.journal cannot be read \(.*\): {remedy}"):
        carried_out(BAYES)
    journal.write_bytes(b"".join(lines))
    Path("out/search.json").unlink()
    with pytest.raises(UserError, match=f"^out/kernel=(1|3).journal is of another search: {remedy}"):
        carried_out(BAYES.replace("to: 0.5", "to: 0.25"))


def test_a_study_is_read_back_as_it_was_written() -> None:
    for text in (QUASI, BAYES.replace("trials: 16", "trials: 7\ntuning_seeds: 3").replace(LR, "[1e-3, 1e-2]")):
        study = written(text)
        Path("again.yaml").write_text(dump(study))
        again = load("again.yaml", "searched", PACKAGE.scores)
        assert dataclasses.replace(again, name="mine", given="mine.yaml") == study


def test_runs_in_a_stack_have_the_scores_of_runs_alone_and_lead_to_the_same_point(capsys) -> None:
    from toy.__main__ import PACKAGE as TOY

    text = """
question: q
compare: {norm: [false]}  # a bias before batch norm is moved by rounding alone
tune: {fit.lr: {from: 1e-4, to: 1e-3, scale: log}, dropout: {from: 0, to: 0.5}}  # slow: a fast rate amplifies rounding
trials: 3
fixed: {fit.epochs: 1, fit.precision: fp32}
seeds: 2
metric: loss
"""
    Path("rate.yaml").write_text(text)
    found = {}
    for how in ("on", "off"):
        assert main(TOY, ["rate.yaml", "--together", how, "--out", how], "toy") == 0
        assert ("3 runs as one stacked program" in capsys.readouterr().out) == (how == "on")
        with open(f"{how}/results.csv", newline="") as file:
            found[how] = [
                (line["fit.lr"], line["dropout"], line["seed"], line["valid_loss"]) for line in csv.DictReader(file)
            ]
    assert [line[:3] for line in found["on"]] == [line[:3] for line in found["off"]]
    assert [float(line[3]) for line in found["on"]] == pytest.approx(
        [float(line[3]) for line in found["off"]], rel=1e-4
    )


def test_a_report_draws_the_score_against_each_knob_and_what_more_points_would_bring() -> None:
    from etude.report import page
    from etude.report import read as report

    lists = QUASI.replace("model.dropout: {from: 0, to: 0.5}", "model.cell: [rnn, lstm]").replace("16", "4")
    for text, title in ((lists, "Expected best of n points"), (lists.replace("quasi", "bayes"), "Best of the first n")):
        out = Path(title.split()[0])
        outcome = carried_out(text, str(out))
        drawn = dict(page.searched(section := report.section(PACKAGE, out, "searched")))
        assert [name.split(" by ")[-1] for name in drawn] == [
            "fit.lr",
            "model.cell",
            f"{title}{'' if 'n points' in title else ' points'}",
        ]
        for run_ in outcome.runs:
            if run_.trial.tuning:
                name = report.in_words(run_.trial.of)
                lr = float(run_.trial.tuned["fit.lr"])
                assert (
                    f"<title>{name}, fit.lr {lr:g}: {run_.valid:.4g}</title>"
                    in drawn["accuracy (validation part) by fit.lr"]
                )
        valid = [r.valid for r in outcome.runs if r.trial.tuning and r.trial.of == "kernel=3"]
        last = expected_best(valid, 4, 1) if title.startswith("Exp") else max(valid)
        assert f"<title>kernel 3, points 4: {last:.4g}</title>" in list(drawn.values())[-1]
        html = page.render(PACKAGE, [section], "again")
        assert "<h2>The search</h2>" in html
        assert ("Dodge et al. 2019" in html) == title.startswith("Exp")


# ------------------------------------------------------------------------------------------------- what it was worth


@pytest.mark.parametrize("sign", [1, -1])
def test_the_expected_best_of_n_is_that_of_all_draws_counted_one_by_one(sign: int) -> None:
    scores = [0.3, 0.7, 0.7, 0.1, 0.9]
    best = max if sign > 0 else min
    for n in range(1, 6):
        counted = statistics.fmean(best(draw) for draw in itertools.product(scores, repeat=n))
        assert expected_best(scores, n, sign) == pytest.approx(counted, abs=1e-12)
    assert expected_best(scores, 1, sign) == pytest.approx(statistics.fmean(scores))
    assert best_so_far([2, 1, 3, 0], sign) == ([2, 2, 3, 3] if sign > 0 else [2, 1, 1, 0])


def test_the_stages_of_a_grid_are_the_grid() -> None:
    grid = written("question: q\ncompare: {model.kernel: [1, 3]}\ntune: {fit.lr: [1e-3, 1e-2]}\nmetric: accuracy\n")
    assert list(stages(grid, Path("out"))) == [("", grid)]
    assert {trial.tuning for trial in grid.trials()} == {False}
    shutil.rmtree("out", ignore_errors=True)
