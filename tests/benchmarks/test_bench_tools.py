"""The benchmark scripts' own logic: what is run again, what a table says."""

from __future__ import annotations

import importlib
import json
import math
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))  # scripts, not a package

import common  # noqa: E402
import comparisons  # noqa: E402
import elastic  # noqa: E402
import elastic_runs  # noqa: E402
import jobs  # noqa: E402
import learning  # noqa: E402
import records  # noqa: E402
import runner  # noqa: E402
import sleepers  # noqa: E402
import throughput  # noqa: E402
from cell_table import CELLS, choose  # noqa: E402
from cells import SEEDS, Cell, mean_score, score_of  # noqa: E402
from tables import markdown_table, text_table  # noqa: E402

from distrl.base.errors import ResourceError, UserError  # noqa: E402
from distrl.base.files import read_json, write_atomic  # noqa: E402
from distrl.base.seeds import seed_for  # noqa: E402
from distrl.config.load import load_config  # noqa: E402

CELL = Cell("tiny", "CartPole-v1", "PPO", "cartpole_ppo", 475, 100_000)
SUMMARY: dict[str, Any] = {
    "stopped": "return_mean 480.0 reached 475",
    "env_steps": 40_000,
    "wall_s": 3.0,
    "return_mean_last_20": 480.0,
    "evaluations": [],
    "updates": 10,
    "parameter_hash": "abc",
}

# ---- cells and records -----------------------------------------------------------------------------------------------


def places_in(folder: Path) -> records.Places:
    return records.Places(folder / "records", folder / "runs", folder / "learning.md")


def put_record(places: records.Places, cell: Cell, seed: int, **changes: Any) -> None:
    facts = {"command": "distrl train", "attempts": 1, "machine": common.machine_facts()}
    record = records.make_record(cell, seed, cell.hashes(seed), SUMMARY | changes, facts)
    records.write_record(places, cell, seed, record)


def test_cells_have_names_of_their_own_and_configs_that_load() -> None:
    assert len({cell.name for cell in CELLS}) == len(CELLS)
    for cell in CELLS:
        assert set(cell.hashes(0)) == {"code", "config"}
        assert cell.hashes(0)["config"] != cell.hashes(1)["config"]
        assert set(cell.seeds) <= set(SEEDS)


def test_unknown_cell_is_named() -> None:
    with pytest.raises(UserError, match="did you mean 'ppo-cartpole'"):
        choose("ppo-cartpol")


def test_a_gate_is_met_within_the_budget_only() -> None:
    ceiling = replace(CELL, ceiling=True)
    assert CELL.passed(100_000)
    assert not CELL.passed(100_001)
    assert not CELL.passed(None)
    assert ceiling.passed(None)
    assert not ceiling.passed(50_000)


EVALUATED = replace(CELL, name="evaluated", judged_by="evaluation")


def test_evaluations_decide_where_the_cell_says_so() -> None:
    config = EVALUATED._loaded
    assert (config.stop.eval_mean, config.stop.eval_in_a_row, config.stop.return_mean) == (475, 2, None)
    assert (config.eval.every, config.eval.episodes, config.eval.deterministic) == (5_000, 20, True)
    assert config.eval.seed == 0, "the same starts for every seed"
    assert (CELL._loaded.eval.every, CELL._loaded.stop.eval_mean, CELL._loaded.stop.return_mean) == (0, None, 475)
    curve = [(5_000, 480.0), (10_000, 500.0)]
    ended = {"env_steps": 10_500, "evaluations": curve, "stopped": "eval_mean 500.0 reached 475, 2 in a row"}
    assert EVALUATED.reached_at(ended) == 10_000, "the weights that were evaluated, not how far training went meanwhile"
    assert EVALUATED.reached_at(ended | {"stopped": "env_steps reached 100000"}) is None
    assert CELL.reached_at(SUMMARY) == 40_000


def judged(*passed: bool, score: float | None = None) -> list[dict[str, Any]]:
    return [{"passed": one, "score": score} for one in passed]


def test_every_seed_or_the_median() -> None:
    median = replace(CELL, median=True)
    assert CELL.verdict(judged(True, True, True))
    assert not CELL.verdict(judged(True, True, False))
    assert median.verdict(judged(True, True, False))
    assert not median.verdict(judged(True, False, False))
    assert not median.verdict([*judged(True, True), None])


def test_a_cell_beats_another_by_its_mean_score() -> None:
    cell = replace(CELL, gate=None, beats="other")
    assert cell.verdict(judged(True, score=3.0), judged(True, score=2.0))
    assert not cell.verdict(judged(True, score=3.0), judged(True, score=3.0))
    assert not cell.verdict(judged(True, score=3.0), [None])
    assert mean_score([*judged(True, score=3.0), *judged(True, score=4.0)]) == 3.5
    assert score_of([[number, float(number)] for number in range(1, 11)]) == 8.0
    assert score_of([]) is None
    assert "return_mean" not in " ".join(cell.words(0))


def test_compared_cells_exist_and_run_as_long() -> None:
    for cell in CELLS:
        if cell.beats is not None:
            other = choose(cell.beats)[0]
            assert cell.scored
            assert other.scored
            assert (cell.budget, cell.seeds, cell.task) == (other.budget, other.seeds, other.task)


def test_a_record_is_current_until_config_or_code_change(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    assert records.read_record(places, CELL, 0) == ("missing", None)
    put_record(places, CELL, 0)
    assert records.read_record(places, CELL, 0)[0] == "current"
    assert records.read_record(places, replace(CELL, budget=50_000), 0)[0] == "stale"
    assert records.read_record(places, replace(CELL, overrides=("algorithm.gamma=0.9",)), 0)[0] == "stale"
    record = read_json(places.record(CELL, 0))
    write_atomic(places.record(CELL, 0), json.dumps(record | {"code": "other"}))
    assert records.read_record(places, CELL, 0)[0] == "stale"


class FakeJob(jobs.Job):
    """Ends at once with a given summary, without a process."""

    started: list[str] = []
    summary: dict[str, Any] = SUMMARY

    def start(self) -> None:
        self.started.append(self.name)

    def ended(self) -> bool:
        put_record(self.places, self.cell, self.seed, **self.summary)
        return True


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> records.Places:
    """`learning.main` with two cells, its own places, and jobs that only pretend."""
    places, cells = places_in(tmp_path), [CELL, replace(CELL, name="other", gate=400)]
    monkeypatch.setattr(learning, "CELLS", cells)
    monkeypatch.setattr(learning, "choose", lambda only: [c for c in cells if only in (None, c.name)])
    monkeypatch.setattr(learning, "Places", lambda: places)
    monkeypatch.setattr(learning, "FOLDER", tmp_path / "benchmarks")
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(learning, "Job", FakeJob)
    monkeypatch.setattr(FakeJob, "started", [])
    monkeypatch.setattr(FakeJob, "summary", SUMMARY)
    return places


def test_current_cells_are_skipped(bench: records.Places, capsys: pytest.CaptureFixture[str]) -> None:
    put_record(bench, CELL, 1)
    assert learning.main(["--seeds", "0,1", "--jobs", "2"]) == 0
    assert FakeJob.started == ["tiny-seed0", "other-seed0", "other-seed1"]
    assert "1 of 4 runs are current, 3 to do." in capsys.readouterr().out
    FakeJob.started.clear()
    assert learning.main(["--seeds", "0,1"]) == 0
    assert FakeJob.started == []
    assert learning.main(["--seeds", "0", "--only", "tiny", "--force"]) == 0
    assert FakeJob.started == ["tiny-seed0"]
    assert "| CartPole-v1 | PPO | 100,000 | >= 475 | 40,000 | 40,000 | - | 2/3 |" in bench.table.read_text()


def test_a_missed_gate_ends_with_1(bench: records.Places, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = {"stopped": "env_steps reached 100000", "env_steps": 100_096, "return_mean_last_20": 300.0}
    monkeypatch.setattr(FakeJob, "summary", missed)
    assert learning.main(["--seeds", "0", "--only", "tiny"]) == 1
    assert learning.main(["--seeds", "0", "--only", "tiny"]) == 1, "a record that missed is current all the same"
    assert FakeJob.started == ["tiny-seed0"]
    assert "not reached (300.0 at 100,096)" in bench.table.read_text()


def test_long_runs_begin_first_with_their_own_seeds(
    bench: records.Places, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [CELL, replace(CELL, name="long", minutes=9.0, seeds=(0,))]
    monkeypatch.setattr(learning, "choose", lambda only: cells)
    monkeypatch.setattr(learning, "CELLS", cells)
    assert learning.main(["--seeds", "0,1"]) == 0
    assert FakeJob.started == ["long-seed0", "tiny-seed0", "tiny-seed1"]
    assert "| >= 475 | 40,000 |  |  | 1/1 |" in bench.table.read_text()
    assert runner.patience(cells[0]) == runner.LEAST_TIMEOUT
    assert runner.patience(replace(CELL, minutes=30.0)) == 9_000.0


def test_the_page_shows_gates_scores_and_medians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = places_in(tmp_path)
    plain = replace(EVALUATED, name="plain", gate=None)
    better = replace(plain, name="better", beats="plain")
    middle = replace(EVALUATED, name="middle", median=True)
    monkeypatch.setattr(records, "choose", lambda name: [plain])
    ended = {"stopped": "env_steps reached 100000", "env_steps": 100_096}
    for seed in (0, 1):
        put_record(places, plain, seed, **ended, evaluations=[(100_000, 4.0 + seed)])
        put_record(places, better, seed, **ended, evaluations=[(100_000, 4.75)])
    goal = {"stopped": "eval_mean 480.0 reached 475, 2 in a row", "evaluations": [(35_000, 480.0), (40_000, 480.0)]}
    put_record(places, middle, 0, **goal)
    put_record(places, middle, 1, **ended, evaluations=[(100_000, 3.0)])
    rows = [row[3:] for row in records.result_rows(places, [plain, better, middle], [0, 1])]
    assert rows == [
        ["score", "4.0", "5.0", ""],
        ["mean score above plain", "4.8", "4.8", "yes"],
        ["median >= 475", "40,000", "not reached (3.0 at 100,096)", "1/2 (no)"],
    ]


def test_list_shows_states(bench: records.Places, capsys: pytest.CaptureFixture[str]) -> None:
    put_record(bench, CELL, 0)
    put_record(bench, replace(CELL, overrides=()), 1)
    assert learning.main(["--list", "--only", "tiny"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[2] for line in lines] == ["current", "stale", "missing"]
    assert FakeJob.started == []


# ---- jobs: a real process, with a stand-in for the trainer -----------------------------------------------------------

TRAINER = """
import json, pathlib, sys, time
words = sys.argv[1:]
folder = pathlib.Path(words[words.index("--runs-dir") + 1]) / words[words.index("--name") + 1]
resumed = "--resume" in words
(folder / "checkpoints" / "update_00000001").mkdir(parents=True, exist_ok=True)
(folder / "checkpoints" / "update_00000001" / "manifest.json").write_text("{}")
BEHAVIOR
attempts = folder / "attempts.json"
known = json.loads(attempts.read_text()) if attempts.exists() else []
attempts.write_text(json.dumps([*known, "one"]))
(folder / "summary.json").write_text(json.dumps(SUMMARY))
"""


def job_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behavior: str = "", timeout: float = 60.0) -> jobs.Job:
    """A job whose process is the stand-in."""
    script = tmp_path / "distrl.py"
    script.write_text(TRAINER.replace("BEHAVIOR", textwrap.dedent(behavior)).replace("SUMMARY", repr(SUMMARY)))
    monkeypatch.setattr(jobs, "REPOSITORY", tmp_path)  # the process' working folder: `-m distrl` finds the stand-in
    return jobs.Job(CELL, 0, places_in(tmp_path), timeout)


def finish(job: jobs.Job) -> None:
    job.start()
    assert job.process is not None
    if job.deadline:
        job.process.wait(60)
    assert job.ended()


def test_a_job_leaves_a_record_and_no_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(tmp_path, monkeypatch)
    finish(job)
    state, record = records.read_record(job.places, CELL, 0)
    assert (state, record and record["passed"], record and record["attempts"]) == ("current", True, 1)
    assert job.report == "passed: 40,000, 3 s"
    assert not job.run_folder.exists()


def test_an_interrupted_run_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(tmp_path, monkeypatch, "if not resumed: sys.exit(130)")
    finish(job)
    assert job.problem == "exited with 130"
    again = jobs.Job(CELL, 0, job.places, 60.0)
    finish(again)
    assert again.resumed
    assert records.read_record(job.places, CELL, 0)[0] == "current"


def test_checkpoints_of_other_code_are_not_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(job_with(tmp_path, monkeypatch, "if not resumed: sys.exit(130)"))
    monkeypatch.setattr(Cell, "hashes", lambda cell, seed: {"code": "new", "config": "new"})
    job = job_with(tmp_path, monkeypatch)
    finish(job)
    assert not job.resumed
    assert list(job.places.runs.glob("tiny-seed0-*")) == []


def test_useless_checkpoints_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(tmp_path, monkeypatch, "sys.exit(4 if resumed else 130)")
    finish(job)
    finish(job)
    assert (job.again, job.problem, job.run_folder.exists()) == (True, "", False)


def test_a_hanging_run_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_with(tmp_path, monkeypatch, "time.sleep(60)", timeout=0.0)
    job.start()
    assert job.ended()
    assert job.problem == "did not end within 0 s"
    assert job.process is not None
    assert job.process.poll() is not None


def test_a_broken_example_is_a_failure_of_its_own(tmp_path: Path) -> None:
    job = jobs.Job(replace(CELL, example="no_such_example"), 0, places_in(tmp_path), 60.0)
    job.start()
    assert job.ended()
    assert "no_such_example.yaml" in job.report


# ---- peers -----------------------------------------------------------------------------------------------------------


def fake_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (tmp_path / "peers").mkdir()
    (tmp_path / "peers" / "fake.py").write_text(code)
    monkeypatch.setattr(common, "FOLDER", tmp_path)
    monkeypatch.setitem(common.PEERS, "fake", common.Peer("fake.py"))


def test_run_peer_returns_the_result_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_peer(tmp_path, monkeypatch, "import sys, json; print('noise'); print(json.dumps({'peer': sys.argv[1:]}))")
    assert common.run_peer("fake", "--seed", 3) == {"peer": ["--seed", "3"]}


def test_run_peer_ends_what_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_peer(tmp_path, monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(ResourceError, match=r"did not end within 0\.5 s"):
        common.run_peer("fake", timeout=0.5)


def test_run_peer_shows_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_peer(tmp_path, monkeypatch, "raise SystemExit('no such environment')")
    with pytest.raises(UserError, match="no such environment"):
        common.run_peer("fake")


def test_parse_result_takes_the_last_result_line() -> None:
    text = '{"peer": "old"}\n{"other": 1}\n{"peer": "new", "x": 2}\nbye\n'
    assert common.parse_result(text) == {"peer": "new", "x": 2}
    assert common.parse_result("nothing\n") is None


def test_seconds_to_reach() -> None:
    curve = [(2_000, 1.0, 100.0), (4_000, 2.0, 480.0), (6_000, 3.0, 500.0)]
    assert common.seconds_to_reach(curve, 475) == 2.0
    assert comparisons.seconds_to_solve({"eval": curve[:1]}) == math.inf


# ---- throughput ------------------------------------------------------------------------------------------------------


def line(speed: float) -> dict[str, Any]:
    return {"steps_per_second": speed, "train_seconds": 1.0, "versions": {"torch": "2"}}


def test_sides_take_turns_and_medians_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    order, speeds = [], {"ours": [300.0, 100.0, 200.0], "sb3": [50.0, 80.0, 90.0]}

    def run(program: str, *words: str, timeout: float) -> dict[str, Any]:
        order.append(program)
        return line(speeds[program].pop(0))

    monkeypatch.setattr(throughput, "run_peer", run)
    group = comparisons.GROUPS["a"]
    measured = throughput.measure("a", group, throughput.parse([]), set())
    result = throughput.result_of("a", group.rows[0], group, measured)
    assert order == ["ours", "sb3"] * 3
    assert (result["ours"], result["peer"], result["ratio"], result["met"]) == (200.0, 80.0, 2.5, True)
    assert result["commands"]["ours"].startswith("benchmarks/peers/ours.py --seed=1 -- examples/cartpole_ppo.yaml")


def test_rows_without_their_peer_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "run_peer", lambda *words, timeout: line(1.0))
    group = comparisons.GROUPS["a"]
    measured = throughput.measure("a", group, throughput.parse([]), {"sb3"})
    assert list(measured.lines) == ["ours"]
    assert not throughput.usable(group.rows[0], measured)


def test_a_run_of_one_update_cannot_be_timed() -> None:
    with pytest.raises(UserError, match="single update"):
        comparisons.steps_per_second({"peer": "ours", "steps_per_second": None})


def test_gradient_updates_are_counted_over_the_same_span() -> None:
    sys.path.insert(0, str(BENCHMARKS / "peers"))
    clock = importlib.import_module("peer_tools").TrainingClock()
    clock.tick(1_000, 500)
    clock.tick(3_000, 1_500)
    assert (clock.counted_steps(), clock.counted_gradient_steps()) == (2_000, 1_000)
    assert comparisons.gradient_steps_per_second({"gradient_steps_per_second": 90.0}) == 90.0
    with pytest.raises(UserError, match="no gradient updates"):
        comparisons.gradient_steps_per_second({"peer": "ours", "gradient_steps_per_second": 0.0})


@pytest.mark.parametrize(("ours", "peer"), [("dqn", "sb3-dqn"), ("sac", "sb3-sac")])
def test_off_policy_sides_do_the_same_work(ours: str, peer: str) -> None:
    """Batch, network and updates per step of our config and of the peer's command line are equal."""
    sides = comparisons.GROUPS["h"].sides
    config = load_config(sides[ours].words[0], sides[ours].words[1:])
    defaults = {"--rollout": "256", "--epochs": "128", "--minibatch-size": "64", "--lr": "2.3e-3"}
    words = defaults | {"--learning-starts": "1000"} | dict(word.split("=") for word in sides[peer].words)
    algorithm = config.algorithm
    assert config.model.hidden == [256, 256]
    assert config.env.num_envs == 1
    assert algorithm["rollout_steps"] == int(words["--rollout"])
    assert algorithm["replay_ratio"] * algorithm["rollout_steps"] == int(words["--epochs"])
    assert algorithm["batch_size"] == int(words["--minibatch-size"])
    assert algorithm["learning_rate"] == float(words["--lr"])
    assert algorithm["learning_starts"] == int(words["--learning-starts"])


def test_rows_name_sides_of_their_group() -> None:
    for group in comparisons.GROUPS.values():
        for row in group.rows:
            assert {row.ours, row.peer} - {None} <= set(group.sides)


def test_plumbing_leaves_out_start_and_evaluation() -> None:
    phases = {"env": 2.0, "policy": 1.0, "learn": 6.0, "loop": 0.5, "other": 0.5, "start": 7.0, "eval": 9.0}
    assert comparisons.plumbing({"phases": {"loop": phases}}) == pytest.approx(0.1)


def test_results_of_other_comparisons_are_kept(tmp_path: Path) -> None:
    row = {
        "key": "a",
        "label": "serial",
        "unit": "steps/s",
        "ours": 20_000.0,
        "peer": 8_000.0,
        "peer_name": "sb3",
        "ratio": 2.5,
        "target": 2.0,
        "goal": None,
        "at_most": False,
        "met": True,
        "machine": common.machine_facts(),
    }
    never = row | {"key": "f", "unit": "s", "ours": None, "peer": 9.25, "ratio": None, "target": 0.6}
    share = row | {"key": "g", "unit": "of wall time", "ours": 0.066, "peer_name": None, "target": 0.15}
    throughput.keep(tmp_path, [row, never | {"at_most": True, "met": False}])
    throughput.keep(tmp_path, [row | {"ours": 24_000.0, "ratio": 3.0}, share | {"at_most": True}])
    text = (tmp_path / "throughput.md").read_text()
    assert "| a | serial | 24,000 | 8,000 (sb3) | steps/s | 3.00x | >= 2x | yes |" in text
    assert "| f | serial | never | 9.2 (sb3) | s | - | <= 0.6x | no |" in text
    assert "| g | serial | 6.6% |  | of wall time |  | <= 15% | yes |" in text
    assert [row["key"] for row in read_json(tmp_path / "throughput.json")["rows"]] == ["a", "f", "g"]


# ---- tables ----------------------------------------------------------------------------------------------------------


def test_tables() -> None:
    rows = [["cartpole", 31_488], ["a|b", "-"]]
    assert markdown_table(["task", "steps"], rows) == "| task | steps |\n|--|--|\n| cartpole | 31488 |\n| a\\|b | - |"
    assert text_table(["task", "steps"], rows) == "task      steps\ncartpole  31488\na|b       -"


# ---- elastic runs ----------------------------------------------------------------------------------------------------


def test_rates_gaps_and_verdicts_of_elastic_runs() -> None:
    lines = [
        {"time": float(time), "env_steps": 100 * time, "evicted": time // 4, "finished": 4 * time + 4}
        for time in (0, 1, 2, 5, 6)
    ]
    times = elastic_runs.Times(lines)
    assert times.rate() == 100
    assert times.longest_gap(0, 2) == 1
    assert times.longest_gap(0, 6) == 3
    assert times.evicted() == 1 / 28
    line = elastic.Line("x", "m", lambda found: found["ratio"], 2.0, lambda found: f"ratio {found['ratio']}")
    row = elastic.row(line, [{"ratio": ratio} for ratio in (9.0, 2.5, 1.0)])
    assert (row["figure"], row["met"], row["how"]) == (2.5, True, "ratio 2.5")
    assert elastic.shown(row) == ["x", "2.50", ">= 2", "yes", "ratio 2.5"]
    assert elastic.row(replace(line, at_most=True), [{"ratio": 2.5}])["met"] is False


def test_sleeping_environments_know_their_stream_and_draw_their_time_per_episode() -> None:
    def seed(stream: int, episode: int) -> int:
        return seed_for(1, "env", stream, 0, episode)

    slow, usual = (sleepers.SleepEnv(0.0, 3, slow_stream=5, slow_seconds=0.01) for _ in range(2))
    slow.reset(seed=seed(5, 7))
    usual.reset(seed=seed(4, 7))
    assert (slow.step_seconds, usual.step_seconds) == (0.01, 0.0)
    assert [slow.step(0)[3] for _ in range(3)] == [False, False, True]
    tailed = sleepers.SleepEnv(0.002, sigma=1.5)
    times = []
    for episode in range(4000):
        tailed.reset(seed=seed(0, episode))
        times.append(tailed.step_seconds)
    assert sum(times) / len(times) == pytest.approx(0.002, rel=0.15)
    assert sorted(times)[2000] == pytest.approx(0.002 * math.exp(-(1.5**2) / 2), rel=0.1)
