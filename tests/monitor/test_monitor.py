from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from distrl.monitor.lines import read_lines


def test_own_measurements_are_added_where_the_loop_gives_none(make, run_dir: Path):
    monitor = make()
    monitor.update({"loss/value": np.float32(1.0), "throughput/env_steps_per_s": 123.0}, 640, 5)
    monitor.flush()
    (line,) = read_lines(run_dir / "metrics.jsonl")
    assert line["throughput/env_steps_per_s"] == 123.0
    assert line["system/rss_mib"] > 10
    assert line["system/available_mib"] > 0
    assert {"time/wall_s", "system/cpu_percent"} <= set(line)


def test_flushes_come_by_themselves_and_not_more_often_than_asked(make, run_dir: Path):
    monitor = make(every=0.2)
    begin, update = time.monotonic(), 0
    while time.monotonic() - begin < 1.1:
        update += 1
        monitor.update({"loss/value": 1.0}, update, update)
        time.sleep(0.002)
    assert 2 <= len(read_lines(run_dir / "metrics.jsonl")) <= 6


def test_update_is_cheap(make):
    monitor = make()
    record = {f"loss/term_{i}": 0.1 * i for i in range(30)} | {"return/mean": 1.0}
    rounds = []
    for _ in range(5):
        begin = time.perf_counter()
        for update in range(200):
            monitor.update(record, update, update)
        rounds.append((time.perf_counter() - begin) / 200)
    assert min(rounds) < 20e-6


def test_nan_is_null_in_json_and_nan_in_tensorboard(make, run_dir: Path):
    monitor = make()
    monitor.update({"loss/value": float("nan"), "loss/policy": 1.0}, 10, 1)
    monitor.flush()
    text = (run_dir / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert json.loads(text)["loss/value"] is None
    (point,) = EventAccumulator(str(run_dir / "tb")).Reload().Scalars("loss/value")
    assert np.isnan(point.value)


def test_events_are_written_everywhere(make, run_dir: Path, capsys):
    monitor = make(console="plain")
    monitor.update({"loss/value": 1.0}, 10, 1)
    monitor.event("checkpoint", path=Path("checkpoints/1"))
    monitor.event("sampler_lost", sampler=np.int64(3))
    monitor.warn("queue is empty")
    shown = capsys.readouterr().out
    assert "checkpoint" not in shown
    assert "sampler_lost sampler=3" in shown
    assert "queue is empty" in shown
    lines = read_lines(run_dir / "events.jsonl")
    assert [line["kind"] for line in lines] == ["checkpoint", "sampler_lost", "warning"]
    assert lines[1]["facts"] == {"sampler": 3}
    assert (lines[0]["attempt"], lines[0]["update"], lines[0]["env_steps"]) == (1, 1, 10)
    assert (run_dir / "log.txt").read_text().count("\n") == 3
    monitor.close()
    reader = EventAccumulator(str(run_dir / "tb")).Reload()
    assert len(reader.Tensors("events")) == 3


def test_config_is_fenced_yaml_and_close_writes_hparams(make, run_dir: Path, capsys):
    monitor = make(console="plain")
    monitor.update({"return/mean": 5.0}, 100, 1)
    monitor.close({"return_mean_last_20": 480.5, "backend": "serial", "ledger": {"used": 3}})
    monitor.close({"again": 1})
    shown = capsys.readouterr().out
    assert "ledger.used" in shown
    assert "again" not in shown
    reader = EventAccumulator(str(run_dir / "tb")).Reload()
    config = reader.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert config.startswith("```yaml\nseed: 0\n")
    assert config.endswith("\n```")
    content = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    start = metadata.parse_session_start_info_plugin_data(content)
    assert start.hparams["env.id"].string_value == "CartPole-v1"
    assert start.hparams["algorithm.lr"].number_value == pytest.approx(3e-4)
    experiment = metadata.parse_experiment_plugin_data(
        reader.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    )
    assert [info.name.tag for info in experiment.metric_infos] == ["summary/return_mean_last_20", "summary/ledger.used"]
    assert reader.Scalars("summary/return_mean_last_20")[0].value == pytest.approx(480.5)


def test_without_tensorboard_no_folder(make, run_dir: Path):
    monitor = make(tensorboard=False)
    monitor.update({"loss/value": 1.0}, 10, 1)
    monitor.event("checkpoint")
    monitor.close({"seed": 0})
    assert not (run_dir / "tb").exists()
    assert len(read_lines(run_dir / "metrics.jsonl")) == 1


def test_no_torch_is_imported():
    code = (
        "import sys, distrl.monitor.monitor, distrl.monitor.tensorboard, distrl.monitor.plot;"
        "print([m for m in ('torch', 'tensorflow', 'ray', 'gymnasium', 'matplotlib') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_a_traceback_is_one_row_of_the_display_and_all_of_it_in_the_log(make, run_dir: Path):
    monitor = make()
    monitor.event("traceback", text="first\nsecond")
    assert monitor.view().last_event.endswith("first")
    assert "second" in (run_dir / "log.txt").read_text()


def test_an_event_from_a_signal_handler_does_not_disturb_a_write(make, run_dir: Path):
    monitor = make(every=0.001)
    fired = []

    def on_alarm(*_: object) -> None:
        fired.append(1)
        monitor.event("interrupt", count=len(fired))

    previous = signal.signal(signal.SIGALRM, on_alarm)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        for update in range(1, 400):
            monitor.update({"loss/value": 1.0}, update, update)
            monitor.flush()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    monitor.close()
    assert fired
    assert len(read_lines(run_dir / "metrics.jsonl")) == 399
    assert len(read_lines(run_dir / "events.jsonl")) == len(fired)
    reader = EventAccumulator(str(run_dir / "tb"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    assert [point.step for point in reader.Scalars("loss/value")] == list(range(1, 400))
